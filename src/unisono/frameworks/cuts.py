"""What is the same wherever a model is cut: who owns what several parts use, and what a unit costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from unisono.frameworks.arrays import aligned_copy
from unisono.frameworks.protocol import Crossing

Result = TypeVar("Result")

REPETITIONS = 3
"""Measurements of a pass, of which the median counts."""


def owners(parts: Sequence[Collection[int]], numbers: Iterable[int]) -> dict[int, int]:
    """Per parameter the first part that uses it; the first of all where none does.

    Args:
        parts: what each one uses.
        numbers: the parameters.

    >>> owners([{0}, {0, 1}], range(3))
    {0: 0, 1: 1, 2: 0}
    """
    return {number: next((at for at, part in enumerate(parts) if number in part), 0) for number in numbers}


def across(parts: Sequence[Collection[int]], place: int) -> set[int]:
    """What is used on both sides of a cut before this part.

    >>> across([{0}, {0, 1}, {1}], 1)
    {0}
    """
    before, after = (set[int]().union(*side) for side in (parts[:place], parts[place:]))
    return before & after


def timed(function: Callable[[], Result], finish: Callable[[Result], Any] = lambda _: None) -> tuple[Result, float]:
    """A pass's result, and the median of its seconds; the first one, which compiles, does not count.

    Args:
        function: the pass.
        finish: waits until its result is there.
    """
    result, seconds = function(), []
    finish(result)
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        result = function()
        finish(result)
        seconds.append(time.perf_counter() - started)
    return result, statistics.median(seconds)


def received(crossing: Crossing) -> Crossing:
    """What was sent as a neighbour receives it: in other memory."""
    arrays = tuple(None if array is None else aligned_copy(array) for array in crossing.arrays)
    return Crossing(arrays, crossing.plain)
