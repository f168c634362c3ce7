"""Where the processes that work on a job print: never a reason for the job to fail."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _Lossy(io.FileIO):
    """A file of which what the system does not take is lost."""

    def write(self, data: Any) -> int:
        """See `io.FileIO.write`."""
        try:
            return super().write(data)
        except OSError:
            return len(memoryview(data).cast("B"))


def print_lossily() -> None:
    """What is printed goes where it went, as far as that takes it and has the letters."""
    sys.stdout, sys.stderr = (
        file and _text(number, file.encoding) for number, file in enumerate((sys.stdout, sys.stderr), 1)
    )


def print_for_the_supervisor() -> None:
    """What is printed goes to the files 1 and 2, which the supervisor reads: as UTF-8, whatever its terminal lacks."""
    sys.stdout, sys.stderr = _text(1, "utf-8"), _text(2, "utf-8")


def _text(number: int, encoding: str) -> io.TextIOWrapper:
    file = io.BufferedWriter(_Lossy(number, "w", closefd=False))
    return io.TextIOWrapper(file, encoding, "backslashreplace", line_buffering=True)


def print_nothing() -> None:
    """Have what this process prints go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
