"""What every contender shares: cases, seeded data, the clock. NumPy only, so that it runs in every environment."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES, PIXELS, CLASSES = 2048, 784, 10
RATE, MOMENTUM = 0.01, 0.9


def parsed(case: str) -> tuple[str, int]:
    """ "mlp-32" → ("mlp", 32)."""
    model, _, batch = case.partition("-")
    return model, int(batch)


def arrays() -> tuple[Any, Any]:
    """Seeded samples and their classes."""
    chance = np.random.default_rng(0)
    return chance.standard_normal((SAMPLES, PIXELS), "float32"), chance.integers(0, CLASSES, SAMPLES)


def pairs() -> list[tuple[Any, Any]]:
    """The samples for Unisono's jobs: a list of (inputs, target)."""
    return list(zip(*arrays(), strict=True))


class Batches:
    """Step → this process's share of the global batch, as views: nothing is shuffled or copied.

    Args:
        batch: samples of a global batch.
        rank: this process's number.
        world: how many processes share a batch.
    """

    def __init__(self, batch: int, rank: int = 0, world: int = 1) -> None:
        self._inputs, self._targets = arrays()
        self._batch, self._share, self._rank = batch, batch // world, rank

    def __call__(self, step: int) -> tuple[Any, Any]:
        start = step * self._batch % SAMPLES + self._rank * self._share
        return self._inputs[start : start + self._share], self._targets[start : start + self._share]


def pinned() -> tuple[int, int]:
    """Pin this process to the cores that the launcher chose; its rank and the world's size."""
    os.sched_setaffinity(0, {int(core) for core in os.environ["CORES"].split(",")})
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def timed(step: Callable[[int], float], steps: int, version: str) -> None:
    """Time steps; each ends when its loss is known, as each of Unisono's records holds its loss. Rank 0 writes."""
    seconds: list[float] = []
    first = 0.0
    last, loss = time.perf_counter(), 0.0
    for number in range(steps):
        loss = step(number)
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
        if not number:
            first = time.time() - float(os.environ["STARTED"])
    if os.environ["RANK"] == "0":
        kept = {"seconds": seconds, "first_step_seconds": first, "loss": loss, "framework": version}
        Path(sys.argv[4]).write_text(json.dumps(kept))
