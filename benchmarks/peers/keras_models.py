"""The models in Keras."""

from __future__ import annotations

from typing import Any

import common
import keras


def mlp() -> Any:
    """784-2048-2048-10."""
    dense = keras.layers.Dense
    return keras.Sequential([
        keras.Input((common.PIXELS,)), dense(2048, "relu"), dense(2048, "relu"), dense(common.CLASSES),
    ])  # fmt: skip


def cnn() -> Any:
    """Two small convolutions on 28 × 28."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input((common.PIXELS,)), layers.Reshape((28, 28, 1)),
        layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(64, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Flatten(), layers.Dense(common.CLASSES),
    ])  # fmt: skip


MODELS = {"mlp": mlp, "cnn": cnn}
