"""What each unit of a model costs, measured on one microbatch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from unisono.frameworks.arrays import restoring
from unisono.frameworks.cuts import received, timed
from unisono.frameworks.keras.stages.stage import Stage
from unisono.frameworks.protocol import Array, Crossing

Cost = tuple[float, float, int, int]
"""Of a unit: seconds of its passes, bytes that it keeps, bytes that cross after it."""


def measured_units(stages: Sequence[Stage], live: Sequence[Array], batch: Any, samples: int) -> list[Cost]:
    """Measure units that are stages of their own, one after the other; buffers keep their values.

    Args:
        stages: the units.
        live: the buffers' arrays.
        batch, samples: the microbatch.
    """
    before, done, backward = Crossing(), [], []
    with restoring(live):
        for stage in stages:
            done.append(timed(partial(stage.forward, batch, samples, before)))
            before = received(done[-1][0].sent)
        after = Crossing()
        for stage, (passed, _) in zip(reversed(stages), reversed(done), strict=True):
            (_, sent), seconds = timed(partial(stage.gradients, passed.kept, after))
            backward.append(seconds)
            after = received(sent)
    return [
        (up, down, passed.kept.bytes, sum(a.nbytes for a in passed.sent.arrays if a is not None))
        for (passed, up), down in zip(done, reversed(backward), strict=True)
    ]
