"""What is the same wherever a model is cut: who owns what several parts use, a pass through all, what a unit costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from unisono.frameworks.arrays import aligned_copy, restoring
from unisono.frameworks.protocol import Array, Crossing, Indices, Passed, Stage

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


def numbered(held: Iterable[Any], among: Sequence[Any]) -> Indices:
    """The places of some objects among all of their kind; others are passed over.

    >>> numbered([str, list, int], [int, float, str])
    (0, 2)
    """
    places = {id(one): place for place, one in enumerate(among)}
    return tuple(sorted({places[id(one)] for one in held if id(one) in places}))


def across(parts: Sequence[Collection[int]], place: int) -> set[int]:
    """What is used on both sides of a cut before this part.

    >>> across([{0}, {0, 1}, {1}], 1)
    {0}
    """
    before, after = (set[int]().union(*side) for side in (parts[:place], parts[place:]))
    return before & after


def received(crossing: Crossing) -> Crossing:
    """What was sent as a neighbour receives it: in other memory."""
    arrays = tuple(None if array is None else aligned_copy(array) for array in crossing.arrays)
    return Crossing(arrays, crossing.plain)


StageMaker = Callable[[Indices, int, bool], Stage]
"""`Adapter.stage`."""

Run = Callable[[Callable[[], Passed]], Passed]
"""Runs a stage's forward pass."""


def stages_of(make: StageMaker, cuts: Indices) -> list[Stage]:
    """All stages of a model."""
    return [make(cuts, index, False) for index in range(len(cuts) - 1)]


def through(
    stages: Sequence[Stage], batch: Any, samples: int, into: Any, used: Array, live: Sequence[Array] = (),
    run: Run = lambda forward: forward(),
) -> tuple[list[Passed], list[float], list[float]]:  # fmt: skip
    """One microbatch through all stages and back.

    Args:
        stages: all of a model's.
        batch, samples: the microbatch.
        into, used: see `Stage.backward`.
        live: the buffers' arrays, which the backward passes leave as the forward passes have.
        run: runs each forward pass.

    Returns:
        What each stage's forward pass gave, and by stage the seconds of the forward and of the backward passes.
    """
    crossing, passed, forward, backward = Crossing(), list[Passed](), list[float](), list[float]()
    for stage in stages:
        began = time.perf_counter()
        passed.append(run(partial(stage.forward, batch, samples, crossing)))
        forward.append(time.perf_counter() - began)
        crossing = received(passed[-1].sent)
    with restoring(live):
        for stage, one in zip(reversed(stages), reversed(passed), strict=True):
            began = time.perf_counter()
            sent = stage.backward(one.kept, crossing, into, used)
            backward.append(time.perf_counter() - began)
            crossing = received(sent)
    return passed, forward, backward[::-1]


def costs(
    make: StageMaker, units: int, batch: Any, samples: int, into: Any, used: Array, live: Sequence[Array],
    counted: Callable[[Callable[[], Passed]], tuple[Passed, int]],
) -> list[tuple[float, float, int, int]]:  # fmt: skip
    """What each unit costs, measured as a stage of its own: `Unit`'s seconds and bytes. Buffers keep their values.

    Args:
        make: see `StageMaker`.
        units: how many there are.
        batch, samples, into, used, live: see `through`.
        counted: runs a forward pass, and tells the bytes that it keeps. It may take its time: the first passes, which
            compile, do not count.
    """
    kept: list[int] = []

    def counting(forward: Callable[[], Passed]) -> Passed:
        passed, size = counted(forward)
        kept.append(size)
        return passed

    stages, what = stages_of(make, tuple(range(units + 1))), (batch, samples, into, used, live)
    with restoring(live):
        first, _, _ = through(stages, *what, counting)
        crossing = [sum(array.nbytes for array in passed.sent.arrays if array is not None) for passed in first]
        del first
        forward, backward = np.median([through(stages, *what)[1:] for _ in range(REPETITIONS)], axis=0).tolist()
    return list(zip(forward, backward, kept, crossing, strict=True))
