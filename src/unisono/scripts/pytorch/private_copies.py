"""Memory that a forked process has for itself, at the addresses at which it was shared."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_READ_WRITE, _PRIVATE_FIXED_ANONYMOUS = 0x1 | 0x2, 0x02 | 0x10 | 0x20


def make_private(address: int, size: int) -> None:
    """Replace a shared mapping by a copy of what it holds now.

    Args:
        address: where it lies; on a page.
        size: bytes.

    Raises:
        OSError: the system gives no memory.
    """
    held = ctypes.string_at(address, size)
    _replace(address, size)
    ctypes.memmove(address, held, size)


def let_go(name: str) -> None:
    """Have this process hold no shared memory of a name: mappings become zeros, which take no memory, and descriptors
    keep their numbers, which others close.

    Args:
        name: as it was given to `os.memfd_create`.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        if f"/memfd:{name} " in line:
            start, end = (int(number, 16) for number in line.split(maxsplit=1)[0].split("-"))
            _replace(start, end - start)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing
            if str(file.readlink()).startswith(f"/memfd:{name} "):
                os.dup2(nothing, int(file.name), inheritable=False)
    os.close(nothing)


def _replace(address: int, size: int) -> None:
    found = _LIBC.mmap(address, size, _READ_WRITE, _PRIVATE_FIXED_ANONYMOUS, -1, 0)
    if found != address:
        raise OSError(ctypes.get_errno(), "mmap")
