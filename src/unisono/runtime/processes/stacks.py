"""Where a process stands that makes a job ready: asked by a signal, answered by `faulthandler` in a file of memory."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from unisono.errors.failure import STACK_SIGNAL
from unisono.errors.traces import is_own_file, is_standard_file

STACK_SECONDS = 0.5
"""Between asking for a stack and the kill: time to write it."""

PLACE_SIGNAL = signal.SIGURG
"""Asks a process that is to go on: Python answers it between two instructions. `faulthandler` answers STACK_SIGNAL in
the middle of one, when frames may be half gone, and has killed processes so. Nobody dies of this signal who does not
know it."""

_FRAME = re.compile(r'^ +File "(.*)", line (\d+) in (.*)$', re.M)
_CALLS = {
    "_seeded": "model()", "open_data": "data()", "_execute": "the job's file", "_made": "job()", "_import": "imports",
}  # fmt: skip
"""Functions of Unisono's, and what of a job they call."""


def answers_in(file: int) -> None:
    """From now on this process, and whoever it forks, writes its stack there when it is asked.

    It is called in the main thread.
    """
    os.set_inheritable(file, False)
    faulthandler.register(STACK_SIGNAL, file=file)
    signal.signal(PLACE_SIGNAL, lambda *_: faulthandler.dump_traceback(file, all_threads=False))
    signal.siginterrupt(PLACE_SIGNAL, False)  # the job's calls of the system go on


class Asked:
    """A process asked for its stack.

    Args:
        process: its number.
        file: where it writes it.
        goes_on: it is only to say where it is; a child that it has forked to make the job may be meant, and is asked
            instead.
    """

    def __init__(self, process: int, file: int, goes_on: bool) -> None:
        self._file, self._from = file, os.fstat(file).st_size
        while goes_on and (inner := next((child for child in _children(process) if _can_answer(child, file)), None)):
            process = inner
        self._process = process
        self._send(PLACE_SIGNAL if goes_on else STACK_SIGNAL)

    def _send(self, number: int) -> None:
        self._sent = number
        if _can_answer(self._process, self._file, number):
            with suppress(ProcessLookupError):
                os.kill(self._process, number)

    def insists(self) -> bool:
        """Ask one again that is to go on and has not answered, if it sleeps in a call of the system: Python is not at
        work then, and no frame is half gone.

        Returns:
            Whether it was asked again.
        """
        if self.stack or self._sent == STACK_SIGNAL or not _sleeps(self._process):
            return False
        self._send(STACK_SIGNAL)
        return True

    @property
    def stack(self) -> str:
        """What it has written; nothing if it cannot."""
        size = os.fstat(self._file).st_size - self._from
        return os.pread(self._file, size, self._from).decode(errors="replace")


def place_in(stack: str) -> tuple[str, str]:
    """What of a job a process is in, and the file and line, as far as its stack tells.

    >>> place_in('Current thread 0x1 (most recent call first):\\n  File "/a/net.py", line 7 in Net\\n')
    ('set-up', '/a/net.py:7')
    """
    frames = _FRAME.findall(stack)
    theirs = [f"{file}:{line}" for file, line, _ in frames if not is_own_file(file) and not is_standard_file(file)]
    called = "set-up"
    for file, _, function in frames:  # the innermost first
        if file.startswith("<frozen importlib"):
            called = "imports"
            break
        if is_own_file(file) and function in _CALLS:
            called = _CALLS[function]
            break
    return called, theirs[0] if theirs else ""


def place_of(thread: int) -> str:
    """The file and line of the job's code in which a thread of this process is; nothing where it is in none.

    Args:
        thread: its identifier.
    """
    for frame, line in traceback.walk_stack(sys._current_frames()[thread]):
        file = frame.f_code.co_filename
        if not is_own_file(file) and not is_standard_file(file) and not file.startswith("<"):
            return f"{file}:{line}"
    return ""


def _children(process: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def _sleeps(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    return False


def _can_answer(process: int, file: int, number: int = STACK_SIGNAL) -> bool:
    """Whether a process has the file and does not end by the signal."""
    with suppress(OSError):
        caught = re.search(r"^SigCgt:\s+(\w+)", Path(f"/proc/{process}/status").read_text(), re.M)
        wanted = os.fstat(file).st_ino
        has = any(link.stat().st_ino == wanted for link in Path(f"/proc/{process}/fd").iterdir())
        return has and caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)
    return False
