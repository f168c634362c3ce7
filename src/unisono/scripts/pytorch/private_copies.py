"""Memory that a forked process has for itself, at the addresses at which it was shared."""

from __future__ import annotations

import ctypes

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
    found = _LIBC.mmap(address, size, _READ_WRITE, _PRIVATE_FIXED_ANONYMOUS, -1, 0)
    if found != address:
        raise OSError(ctypes.get_errno(), "mmap")
    ctypes.memmove(address, held, size)
