"""Sizes of memory as people read them."""

from __future__ import annotations

GIB = 1 << 30


def size(count: float) -> str:
    """
    >>> size(3 << 30), size(5 << 20)
    ('3.0 GiB', '5 MiB')
    """
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / (1 << 20):.0f} MiB"
