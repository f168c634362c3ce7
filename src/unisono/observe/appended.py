"""A file that takes pieces at its end, each whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Appended:
    """Opened with the first piece, and again where somebody has removed the file or its folder.

    What the disk does not take is said once, until it takes something again.

    Args:
        folder: gives where it lies now; a run folder may be moved.
        name: its name there.
        message: says what a person should know.
        again: whether a file that was removed may begin anew.
    """

    folder: Callable[[], Path]
    name: str
    message: Callable[[str], None]
    again: bool = True
    file: int | None = None
    is_troubled: bool = False

    def write(self, data: bytes) -> bool:
        """Append a piece; returns whether the disk has taken it."""
        try:
            file = self._opened()
            size = os.fstat(file).st_size
            try:
                write_whole(file, data)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file, size)  # nothing torn stays before what comes later
                raise
        except OSError as error:
            if not self.is_troubled:
                self.message(f"{self.name} could not be written: {error}; training goes on")
            self.is_troubled = True
            return False
        self.is_troubled = False
        return True

    def _opened(self) -> int:
        if self.file is not None and not os.fstat(self.file).st_nlink:
            if not self.again:
                raise FileNotFoundError("it has been removed")
            self.close()
            self.message(f"{self.name} has been removed: it begins anew with what comes now; training goes on")
        if self.file is None:
            path = self.folder() / self.name
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return self.file

    def close(self) -> None:
        """Close it; a later piece opens it again."""
        file, self.file = self.file, None
        if file is not None:
            with suppress(OSError):
                os.close(file)


def write_whole(file: int, data: bytes) -> None:
    """Write all of it; raises OSError where the file does not take all."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
