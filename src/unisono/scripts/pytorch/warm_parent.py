"""The process that forks a script's workers: it has imported PyTorch and computed next to nothing, on one thread.

Started by exec, so that nothing of the script's (threads, locks, a notebook's kernel) is inherited.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import os
import select
import signal
import socket
import sys

import torch

from unisono.errors.failure import STACK_SIGNAL
from unisono.runtime.processes.channel import Channel
from unisono.runtime.processes.lifeline import fork_for
from unisono.runtime.processes.signals import SIGNALS
from unisono.scripts.pytorch.worker import Worker


def main(file: int, script: int) -> None:
    """Serve a script until it closes the channel or ends."""
    pidfd = os.pidfd_open(script)
    if os.getppid() != script:
        os._exit(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # they are the script's
    torch.set_num_threads(1)
    _compute_once()
    channel = Channel(socket.socket(fileno=file))
    poll = select.poll()
    poll.register(channel.socket, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    with contextlib.suppress(EOFError, ConnectionError):
        while not any(ready == pidfd for ready, _ in poll.poll()):
            _answer(channel, script)
    os._exit(0)


def _compute_once() -> None:
    """Have everything imported that a first backward pass imports; on one thread a process can still be forked."""
    layer = torch.nn.Linear(1, 1)
    output = layer(torch.ones(1, 1))
    torch.autograd.backward([output], [torch.empty_like(output, device="meta").new_ones(1, 1, device="cpu")])
    gc.collect()
    gc.freeze()


def _answer(channel: Channel, script: int) -> None:
    (verb, *arguments), files = channel.receive()
    if verb == "import":
        path, names = arguments
        sys.path[:] = path
        for name in names:
            with contextlib.suppress(Exception):  # whoever needs it says what is wrong
                importlib.import_module(name)
        gc.collect()
        gc.freeze()
        return
    end, start = files

    def live() -> int:
        channel.close()
        faulthandler.register(STACK_SIGNAL, all_threads=False)
        with contextlib.suppress(EOFError, ConnectionError):
            Worker(Channel(socket.socket(fileno=end))).serve()
        sys.stdout.flush()
        return 0

    try:
        process: int | str = fork_for(script, start, live)
    except OSError as error:
        process = str(error.strerror)
    finally:
        os.close(start)
        os.close(end)
    channel.send(process)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
