"""Append to a file all of something or nothing: no torn line stays before what is written later."""

from __future__ import annotations

import os
from contextlib import suppress
from io import FileIO


def append(file: FileIO, data: bytes) -> None:
    """Write at the end of a file.

    Raises:
        OSError: the disk does not take it; the file is as long as before.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        while data:
            data = data[file.write(data) or 0 :]
    except OSError:
        with suppress(OSError):
            os.ftruncate(file.fileno(), size)
        raise
