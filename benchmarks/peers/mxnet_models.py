"""The models in MXNet's gluon."""

from __future__ import annotations

from typing import Any

import common
from mxnet.gluon import nn


def mlp() -> Any:
    """784-2048-2048-10."""
    model = nn.HybridSequential()
    model.add(
        nn.Dense(2048, activation="relu", in_units=common.PIXELS), nn.Dense(2048, activation="relu", in_units=2048),
        nn.Dense(common.CLASSES, in_units=2048),
    )  # fmt: skip
    model.hybridize()
    return model


def cnn() -> Any:
    """Two small convolutions on 28 × 28."""
    model = nn.HybridSequential()
    model.add(
        nn.HybridLambda(lambda F, inputs: F.reshape(inputs, (-1, 1, 28, 28))),
        nn.Conv2D(32, 3, padding=1, activation="relu", in_channels=1), nn.MaxPool2D(),
        nn.Conv2D(64, 3, padding=1, activation="relu", in_channels=32), nn.MaxPool2D(),
        nn.Dense(common.CLASSES, in_units=64 * 49),
    )  # fmt: skip
    model.hybridize()
    return model


MODELS = {"mlp": mlp, "cnn": cnn}
