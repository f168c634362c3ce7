"""What people's Keras models do besides computing: refused by name where it cannot be kept."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import pytest

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("TensorFlow is not installed in this environment", allow_module_level=True)

import keras

import frameworks.kits.keras as kit
from faults import run
from frameworks.kits.samples import CLASSES, FEATURES
from unisono.errors import UsageError


class Normed(keras.layers.Layer):
    """Keeps a weight normed by writing it back."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], CLASSES), name="kernel")

    def call(self, inputs: Any) -> Any:
        self.kernel.assign(self.kernel / 2)
        return inputs @ self.kernel


class OwnTrain(keras.Model):
    def train_step(self, data: Any) -> Any:
        raise AssertionError(data)


class OwnLoss(keras.Model):
    def compute_loss(self, *values: Any, **more: Any) -> Any:
        raise AssertionError(values)


class OwnTest(keras.Model):
    def test_step(self, data: Any) -> Any:
        raise AssertionError(data)


def normed() -> Any:
    return keras.Sequential([keras.Input((FEATURES,)), Normed()])


def functional(model: type) -> Any:
    inputs = keras.Input((FEATURES,))
    return model(inputs, keras.layers.Dense(CLASSES)(inputs))


def test_a_weight_that_call_assigns_is_named() -> None:
    outcome, _, _ = run(replace(kit.make(), model=normed), 2)
    assert outcome.failure is not None
    assert "may not change parameters" in outcome.failure.message
    assert "kernel" in outcome.failure.message
    assert outcome.steps_done == 0


@pytest.mark.parametrize(
    ("model", "name"), [(OwnTrain, "train_step"), (OwnLoss, "compute_loss"), (OwnTest, "test_step")]
)
def test_an_own_way_to_train_or_evaluate_is_named(model: type, name: str) -> None:
    with pytest.raises(UsageError, match=f"{model.__name__} has a {name} of its own, which nothing would call"):
        run(replace(kit.make(), model=lambda: functional(model)), 2)
