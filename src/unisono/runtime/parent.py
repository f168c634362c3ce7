"""The warm parent: a single-threaded process that has imported the framework and the job, and forks workers.

Started by exec, so that nothing of the supervisor's (threads, locks, a notebook's kernel) is inherited. It lives as
long as the supervisor's end of the channel is open; its children die with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import sys
from typing import Any

from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.runtime.channel import Channel
from unisono.runtime.failure import Failure, failure
from unisono.runtime.prepare import Prepared, prepare
from unisono.runtime.samples import load_ahead, taken
from unisono.runtime.state import HostState
from unisono.runtime.worker import WorkerFailed

_PR_SET_PDEATHSIG = 1


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
                prepared.initialise(state, arguments[0])
            elif verb == "fork":
                assert prepared is not None
                assert state is not None
                answer = _fork(prepared, state, arguments[0], arguments[1], files, channel)
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


def _fork(prepared: Prepared, state: HostState, role: str, index: int, files: list[int], channel: Channel) -> int:
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
        channel.close()
        output, report = files
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        trouble = _live(prepared, state, role, index)
        if trouble is not None:
            os.write(report, pickle.dumps(trouble)[: 1 << 20])
        status = 0 if trouble is None else 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _live(prepared: Prepared, state: HostState, role: str, index: int) -> Failure | None:
    slots, segment = prepared.layout.shape.slots, state.segment
    ring = prepared.ring(segment)
    try:
        if role == "loader":
            loaders = index >> 16
            committed = Words(segment, "committed", 0.0)
            load_ahead(prepared.reader(), prepared.program, ring, committed, slots, (index & 0xFFFF, loaders))
            return None
        _pin(prepared, index)
        worker = prepared.worker(index, state, lambda round_, m: taken(ring.get(round_, m)))
        worker.run()
        return None
    except WorkerFailed as error:
        return error.description  # type: ignore[no-any-return]
    except Exception as error:
        return failure(error, f"{role} {index & 0xFFFF}")


def _pin(prepared: Prepared, slot: int) -> None:
    cores, threads = prepared.request.cores, prepared.request.threads
    if (slot + 1) * threads <= len(cores):
        os.sched_setaffinity(0, cores[slot * threads : (slot + 1) * threads])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
