"""A job of the toy framework."""

from __future__ import annotations

from functools import partial

import numpy as np
from toynet import Linear, squares

from unisono import Job


def job(epochs: int = 2) -> Job:
    draw = np.random.default_rng(0)
    inputs = draw.standard_normal((256, 20)).astype(np.float32)
    targets = inputs @ draw.standard_normal((20, 5)).astype(np.float32)
    pairs = list(zip(inputs, targets, strict=True))
    return Job(
        model=partial(Linear, 20, 5), loss=squares, data=pairs, evaluation=pairs,
        batch_size=32, microbatches=8, epochs=epochs, optimizer=lambda model: 0.01,
    )  # fmt: skip
