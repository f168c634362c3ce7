"""How much work a call is, in lines of Unisono's own source that it executes: the same on a busy machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import unisono

SOURCE = str(Path(unisono.__file__).parent)


def lines_of(call: Callable[[], object]) -> int:
    """Lines that a call executes in this thread; each turn of a loop counts."""
    count = 0

    def inside(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return inside

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: inside if frame.f_code.co_filename.startswith(SOURCE) else None)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def is_linear(work: Callable[[int], Callable[[], object]], size: int) -> bool:
    """Whether twice the size makes at most about twice the work.

    Args:
        work: of a size what is called.
        size: the smaller of two.
    """
    call, twice = work(size), work(2 * size)
    return lines_of(twice) < 2.2 * lines_of(call)
