"""What each unit of a model costs, measured on one microbatch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from unisono.frameworks.keras.stages.stage import Stage
from unisono.frameworks.protocol import Array, Crossing

REPETITIONS = 3
"""Measurements of a unit, of which the median counts."""


@dataclass(frozen=True)
class Measurement:
    """Of a unit: seconds of its passes, bytes that it keeps, bytes that cross after it."""

    forward: float
    backward: float
    activations: int
    crossing: int


def measured_units(stages: Sequence[Stage], live: Sequence[Array], batch: Any, samples: int) -> list[Measurement]:
    """Measure units that are stages of their own, one after the other; buffers keep their values.

    Args:
        stages: the units.
        live: the buffers' arrays.
        batch, samples: the microbatch.
    """
    before = [array.copy() for array in live]
    received, done, backward = Crossing(), [], []
    for stage in stages:
        passed, seconds = _timed(partial(stage.forward, batch, samples, received))
        done.append((passed, seconds))
        received = _copied(passed.sent)
    received = Crossing()
    for stage, (passed, _) in zip(reversed(stages), reversed(done), strict=True):
        (_, sent), seconds = _timed(partial(stage.gradients, passed.kept, received))
        backward.append(seconds)
        received = _copied(sent)
    for array, values in zip(live, before, strict=True):
        array[...] = values
    return [
        Measurement(up, down, passed.kept.bytes, sum(a.nbytes for a in passed.sent.arrays if a is not None))
        for (passed, up), down in zip(done, reversed(backward), strict=True)
    ]


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """(result, median of the seconds); the first call, which traces, does not count."""
    result, seconds = function(), []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - started)
    return result, statistics.median(seconds)


def _copied(crossing: Crossing) -> Crossing:
    """As a neighbour receives it: in other memory."""
    return Crossing(tuple(a if a is None else np.array(a) for a in crossing.arrays), crossing.plain)
