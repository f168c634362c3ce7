"""Handwritten digits in flax.nnx and optax: the network and the data of `digits_torch.py`.

unisono train examples/digits_jax.py
unisono verify examples/digits_jax.py
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from unisono import Job

TEST = 360


class Net(nnx.Module):
    """Two convolutions with BatchNorm, then a classifier with dropout."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.conv1, self.norm1 = nnx.Conv(1, 16, (3, 3), rngs=rngs), norm(16)
        self.conv2, self.norm2 = nnx.Conv(16, 32, (3, 3), rngs=rngs), norm(32)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(32 * 16, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = nnx.relu(self.norm1(self.conv1(images)))
        hidden = nnx.max_pool(nnx.relu(self.norm2(self.conv2(hidden))), (2, 2), (2, 2))
        return self.last(self.dropout(hidden.reshape(len(hidden), -1)))


class Split:
    """The training or the test images (8, 8, 1) with their digits, drawn apart with a fixed seed."""

    def __init__(self, test: bool) -> None:
        bunch: Any = load_digits()
        shuffled = np.random.default_rng(0).permutation(len(bunch.target))
        chosen = shuffled[:TEST] if test else shuffled[TEST:]
        self.images = (bunch.images[chosen, :, :, None] / 16).astype("float32")
        self.digits = bunch.target[chosen].astype("int32")

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.images[index], self.digits[index]


def accuracy(outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, int]:
    """Right answers and answers."""
    return (outputs.argmax(1) == targets).sum(), len(targets)


def job(lr: float = 3e-3, epochs: int = 15) -> Job:
    """The digits job."""
    return Job(
        model=lambda: Net(nnx.Rngs(0)),
        loss=optax.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adamw(lr, weight_decay=0.01),
        data=lambda: Split(test=False),
        batch_size=128,
        microbatches=8,
        epochs=epochs,
        evaluation=lambda: Split(test=True),
        metrics={"accuracy": accuracy},
    )
