"""The warm parent: a single-threaded process that has imported the framework and the job, and forks workers.

Started by exec, so that nothing of the supervisor's (threads, locks, a notebook's kernel) is inherited. It lives as
long as the supervisor's end of the channel is open; its children die with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import pickle
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

from unisono.memory.segment import Segment
from unisono.runtime.channel import Channel
from unisono.runtime.failure import STACK_SIGNAL, Failure, failure
from unisono.runtime.prepare import Prepared, prepare
from unisono.runtime.samples import load_ahead
from unisono.runtime.slot import WorkerFailed
from unisono.runtime.state import HostState

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that made it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main(file: int, supervisor: int) -> None:
    """Serve the supervisor until it closes the channel."""
    die_with_parent(supervisor)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=file))
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(channel)
    os._exit(0)


def _serve(channel: Channel) -> None:
    job: Any = None
    prepared: Prepared | None = None
    state: HostState | None = None
    event = -1
    while True:
        (verb, *arguments), files = channel.receive()
        answer: Any = None
        try:
            if verb == "job":
                job = _load(*arguments)
            elif verb == "prepare":
                prepared = prepare(job, arguments[0])
                answer = prepared.described
            elif verb == "memory":
                assert prepared is not None
                state = HostState(prepared.layout, Segment(files[0], prepared.layout.segment))
                if arguments[0]:
                    prepared.initialise(state)
                prepared.bind(state)
                ctypes.CDLL(None).malloc_trim(0)  # the model's first values are in shared memory now
                event = files[1]
            elif verb == "catch_up":
                assert prepared is not None
                assert state is not None
                prepared.catch_up(state, arguments[0])
            elif verb == "fork":
                assert prepared is not None
                assert state is not None
                answer = _fork(prepared, state, Life(arguments[0], arguments[1], event), files, channel)
            elif verb == "reap":
                answer = _reap(arguments[0])
        except Exception as error:
            answer = failure(error, f"while the job was set up ({verb})")
        channel.send(answer)


def _load(folder: str, path: list[str], payload: bytes) -> Any:
    os.chdir(folder)
    sys.path[:] = path
    return pickle.loads(payload)


def _reap(process: int) -> int:
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


@dataclass(frozen=True)
class Life:
    """What a child is to be: role ("worker", "loader"), member or loader number, the supervisor's eventfd."""

    role: str
    number: int
    event: int


def _fork(prepared: Prepared, state: HostState, life: Life, files: list[int], channel: Channel) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    process = os.fork()
    if process:
        for file in files:
            os.close(file)
        return process
    status = 1
    try:
        die_with_parent(parent)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, f"unisono-{life.role}".encode(), 0, 0, 0)  # what `ps` and `top` show
        channel.close()
        output, report = files
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        faulthandler.register(STACK_SIGNAL, file=2)
        trouble = _live(prepared, state, life)
        if trouble is not None:
            os.write(report, pickle.dumps(trouble)[: 1 << 20])
        status = 0 if trouble is None else 1
    except SystemExit as request:  # the job's code left by itself
        status = request.code if isinstance(request.code, int) and request.code else 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _live(prepared: Prepared, state: HostState, life: Life) -> Failure | None:
    try:
        if life.role == "loader":
            loaders = prepared.layout.shape.loaders
            ring = prepared.ring(state.segment)
            load_ahead(prepared.reader(), prepared.program, ring, state, (life.number, loaders))
        else:
            prepared.worker(life.number, state, lambda: os.eventfd_write(life.event, 1)).run()
        return None
    except WorkerFailed as error:
        return error.description
    except Exception as error:
        return failure(error, f"{life.role} {life.number}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
