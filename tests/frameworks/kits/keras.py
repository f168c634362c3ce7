"""Keras (on the backend that KERAS_BACKEND names) for the contract suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from frameworks.kits.samples import CLASSES, FEATURES, Pairs, arrays
from unisono import Job
from unisono.frameworks.keras.backends import BACKEND
from unisono.frameworks.keras.data import Data
from unisono.frameworks.keras.variables import value_of

Data().pin(1)  # before anything here computes: as the workers do


def mlp() -> Any:
    """20-33-5."""
    layers = keras.layers
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dense(33, "relu"), layers.Dense(CLASSES)])


def cnn() -> Any:
    """A 3 × 3 convolution with 8 channels over 4 × 5 pixels, then a dense layer."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input((FEATURES,)), layers.Reshape((4, 5, 1)), layers.Conv2D(8, 3, padding="same", activation="relu"),
        layers.Flatten(), layers.Dense(CLASSES),
    ])  # fmt: skip


def wild() -> Any:
    """Batch normalization and dropout, and enough parameters for several blocks."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input((FEATURES,)), layers.Dense(500), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.2),
        layers.Dense(CLASSES),
    ])  # fmt: skip


MODELS: dict[str, Callable[[], Any]] = {"mlp": mlp, "cnn": cnn, "wild": wild}


def loss(targets: Any, outputs: Any) -> Any:
    """One value a sample: averaged, as Keras does."""
    return keras.losses.sparse_categorical_crossentropy(targets, outputs, from_logits=True)


def sgd(steps: int) -> Any:
    return keras.optimizers.SGD(0.05, momentum=0.9)


def adam(steps: int) -> Any:
    return keras.optimizers.Adam(0.01)


class Unknown(keras.optimizers.Adam):
    """A class that Unisono does not know."""


def unknown(steps: int) -> Any:
    return Unknown(0.01)


OPTIMIZERS: dict[str, Any] = {"sgd": sgd, "adam": adam, "unknown": unknown}
"""`Job.optimizer` for SGD (0.05, momentum 0.9), Adam (0.01), and one that only a whole-model update serves."""


def warmup(steps: int) -> Any:
    return keras.optimizers.Adam(keras.optimizers.schedules.PolynomialDecay(0.001, steps, 0.01))


SCHEDULED: dict[str, Any] = {"optimizer": warmup}
"""Changes of a job that make its learning rate rise from step to step."""


def weighted_loss(targets: Any, outputs: Any) -> tuple[Any, Any]:
    """(Σ loss, number) of the samples whose class is not 0."""
    counted = keras.ops.cast(targets != 0, "float32")
    return keras.ops.sum(loss(targets, outputs) * counted), keras.ops.sum(counted)


def accuracy(outputs: Any, targets: Any) -> tuple[Any, int]:
    """(right ones, all of them)."""
    return keras.ops.sum(keras.ops.equal(keras.ops.argmax(outputs, 1), targets)), len(targets)


def first_class(model: Any, inputs: Any) -> Any:
    """`Job.predict`: class 0 for every sample."""
    return keras.ops.one_hot(keras.ops.zeros(len(inputs), "int32"), CLASSES)


def make(model: Any = "mlp", **changes: Any) -> Job:
    """A job of six steps over 100 samples in batches of 32: the fourth batch is short and leaves microbatches empty."""
    fields: dict[str, Any] = {
        "model": MODELS.get(model, model), "loss": loss, "optimizer": sgd, "data": Pairs,
        "batch_size": 32, "microbatches": 8, "steps": 6,
    }  # fmt: skip
    return Job(**{**fields, **changes})


def plain(model: str, optimizer: str, steps: int) -> dict[str, Any]:
    """Full-batch training with an ordinary loop and no Unisono: the parameters by their saved names."""
    Data().seed_model(0)
    trained = MODELS[model]()
    trained.compile(OPTIMIZERS[optimizer](steps), loss)
    inputs, targets = arrays()
    for _ in range(steps):
        trained.train_on_batch(inputs, targets)
    return {variable.path: BACKEND.array(value_of(variable)) for variable in trained.weights}


def outputs_of(model: Any, inputs: Any) -> Any:
    """What a restored model answers, as an array."""
    return BACKEND.array(model(np.asarray(inputs)))
