"""This process's heap, where the C library lets itself be told (glibc)."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 30

LARGE_BYTES = 32 << 20
"""The largest arrays that the library ever cuts from the heap."""


def trim() -> None:
    """Give freed memory back to the system; processes forked afterwards don't inherit it."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


def keep_freed(apart_bytes: int) -> None:
    """Keep what a step frees for the next one, which needs it again: fresh pages are cleared first, the large ones too.

    Args:
        apart_bytes: arrays from this size on are mapped one by one instead of being cut from the heap; at most what the
            library itself would come to, `LARGE_BYTES`.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        option(_M_MMAP_THRESHOLD, apart_bytes)  # setting one stops the library from adapting the other
