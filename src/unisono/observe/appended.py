"""A file that takes pieces at its end, each whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class Appended:
    """Opened with the first piece, and again where somebody has removed the file or its folder.

    What the disk does not take is said once, until it takes something again.

    Args:
        folder: gives where it lies now; a run folder may be moved.
        name: its name there.
        message: says what a person should know.
        again: whether a file that was removed may begin anew.
    """

    def __init__(
        self, folder: Callable[[], Path], name: str, message: Callable[[str], None], again: bool = True
    ) -> None:
        self._folder, self._name, self._message, self._again = folder, name, message, again
        self._file: int | None = None
        self._is_troubled = False

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
            if not self._is_troubled:
                self._message(f"{self._name} could not be written: {error}; training goes on")
            self._is_troubled = True
            return False
        self._is_troubled = False
        return True

    def _opened(self) -> int:
        if self._file is not None and not os.fstat(self._file).st_nlink:
            if not self._again:
                raise FileNotFoundError("it has been removed")
            self.close()
            self._message(f"{self._name} has been removed: it begins anew with what comes now; training goes on")
        if self._file is None:
            path = self._folder() / self._name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return self._file

    def close(self) -> None:
        """Close it; a later piece opens it again."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                os.close(file)


def write_whole(file: int, data: bytes) -> None:
    """Write all of it; raises OSError where the file does not take all."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
