"""Standard output and standard error, as something that cannot fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TextIO

from unisono.observe.appended import write_whole
from unisono.observe.outlet import Outlet, is_stuck

LAST_STANDARD = 2

SHOW_SECONDS = 5.0
"""Patience with a terminal when there is nothing left to do."""


class Stream:
    """Text for a stream of this process. What it does not take (a closed pipe, a full disk) is said once.

    The real streams are written past Python's buffer: its lock, held by a thread that a terminal has stopped, would
    keep the process from ending.

    Args:
        file: `sys.stdout`, `sys.stderr`, or what stands there in a notebook or a test; None = it is closed.
        say: says what a person should know.
    """

    def __init__(self, file: TextIO | None, say: Callable[[str], None]) -> None:
        self._file, self._say = file, say
        self._number = _number(file)
        self.encoding = getattr(file, "encoding", None) or "utf-8"
        self.has_failed = False

    def write(self, text: str) -> int:
        """Show a text, letters that the encoding lacks as escapes. It may block."""
        if self._file is None:
            return len(text)
        data = text.encode(self.encoding, "backslashreplace")
        try:
            if self._number is None:
                self._file.write(data.decode(self.encoding))
            self._file.flush()  # also what others have printed
            if self._number is not None:
                write_whole(self._number, data)
        except (OSError, ValueError) as error:
            if not self.has_failed:
                self.has_failed = True
                self._say(f"output could not be shown: {error}")
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._file is not None and self._file.isatty()


def _number(file: TextIO | None) -> int | None:
    """The descriptor of a real stream."""
    if file is None or not any(file is real for real in (sys.__stdout__, sys.__stderr__)):
        return None
    with suppress(OSError, ValueError):
        return file.fileno()
    return None


def fill_closed() -> None:
    """Have descriptors 0 to 2 lead somewhere: of a closed one the next file would become standard output."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= LAST_STANDARD:
        os.set_inheritable(number, True)
    os.close(number)


def complain(text: str) -> None:
    """A line on standard error, if that takes it in a while."""
    stream = Stream(sys.stderr, lambda text: None)
    outlet = Outlet("standard error", lambda text: None)
    outlet.put(stream.write, text + "\n")
    outlet.close(SHOW_SECONDS)


def leave(status: int) -> NoReturn:
    """End this process with a status, whatever its threads and its streams are stuck in."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not is_stuck():
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # where Python flushes it again, at its end
    if is_stuck():
        os._exit(status)
    sys.exit(status)
