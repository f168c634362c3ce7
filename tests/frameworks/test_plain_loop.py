"""Small runs of every framework have the values of the plain loop: what the result is, not only that it is the same."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from frameworks.kits.samples import Pairs
from held import hold
from unisono import Job


class Noisy(Pairs):
    """Augmentation that draws from NumPy's generator: other noise in every epoch."""

    def __getitem__(self, index: int) -> Any:
        inputs, target = super().__getitem__(index)
        return inputs + np.random.normal(size=inputs.shape).astype("float32"), target


def three_quarters(outputs: Any, targets: Any) -> tuple[int, int]:
    """A metric function whose value is known."""
    return 3 * len(targets), 4 * len(targets)


def even_ones_first(epoch: int, generator: np.random.Generator) -> Any:
    """An order that follows the epoch's generator, over some of the samples."""
    chosen = generator.permutation(90)
    return np.concatenate([chosen[chosen % 2 == 0], chosen[chosen % 2 == 1]])


def short_batches(kit: Any) -> Job:
    """100 samples in batches of 32, the last one of 4, for two epochs: BatchNorm's buffers, dropout, a clipped
    gradient of three blocks, noise by sample and epoch, two evaluation sets and two metric functions."""
    return kit.make(
        "wild", data=Noisy, steps=None, epochs=2, clip_norm=0.5, evaluate_every=3, seed=3,
        evaluation={"near": lambda: Noisy(50, 2), "far": lambda: Pairs(38, 3)},
        metrics={"accuracy": kit.accuracy, "known": three_quarters},
    )  # fmt: skip


def weights(kit: Any) -> Job:
    """Weights that are no sample counts, microbatches of another size at the end, and a rate that rises."""
    return kit.make(
        **kit.SCHEDULED, loss=kit.weighted_loss, batch_size=26, microbatches=7, steps=7, drop_last=True,
        order=even_ones_first, evaluation=lambda: Pairs(50, 2),
    )  # fmt: skip


@pytest.mark.parametrize("job", [short_batches, weights])
def test_a_run_has_the_plain_loops_values(kit: Any, job: Any) -> None:
    loop = importlib.import_module(kit.__name__.replace("kits", "loops"))
    hold(job(kit), loop.Loop, loop.TOLERANCE)
