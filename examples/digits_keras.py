"""Handwritten digits with Keras: the network and the data of digits_torch.py, on any of Keras's backends.

unisono train examples/digits_keras.py
KERAS_BACKEND=jax unisono verify examples/digits_keras.py
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

from unisono import Job

TEST = 360


def make() -> keras.Model:
    """Two convolutions with BatchNormalization, then a classifier with dropout."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input((8, 8, 1)),
        layers.Conv2D(16, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(),
        layers.Conv2D(32, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D(),
        layers.Flatten(), layers.Dropout(0.2), layers.Dense(10),
    ])  # fmt: skip


def split(test: bool) -> list[tuple[Any, Any]]:
    """The training or the test images, drawn apart with a fixed seed."""
    bunch: Any = load_digits()
    images = bunch.images[..., None].astype("float32") / 16
    shuffled = np.random.default_rng(0).permutation(len(images))
    chosen = shuffled[:TEST] if test else shuffled[TEST:]
    return list(zip(images[chosen], bunch.target[chosen], strict=True))


def job(lr: float = 3e-3, epochs: int = 15) -> Job:
    """The digits job."""
    return Job(
        model=make,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.AdamW(lr),
        data=lambda: split(test=False),
        batch_size=128,
        microbatches=8,
        epochs=epochs,
        evaluation=lambda: split(test=True),
        metrics={"accuracy": keras.metrics.SparseCategoricalAccuracy()},
    )
