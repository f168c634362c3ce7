"""This process's heap, where the C library lets itself be told (glibc)."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES, _KEPT_BYTES = 8 << 20, 256 << 20


def trim() -> None:
    """Give freed memory back to the system; processes forked afterwards don't inherit it."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


def keep_large_apart() -> None:
    """Map arrays from 8 MiB on one by one instead of cutting them from the heap.

    A stage frees one microbatch's activations while it keeps the next one's. In the heap that leaves gaps into which
    what comes next does not fit: a half more memory was measured.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        option(_M_TRIM_THRESHOLD, _KEPT_BYTES)  # setting the other one has stopped the library from adapting it
