"""What people's Keras models do besides computing: refused by name where it cannot be kept."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("TensorFlow is not installed in this environment", allow_module_level=True)

import keras

import frameworks.kits.keras as kit
from everywhere import hold_to_one_hash
from faults import run
from frameworks.kits.samples import CLASSES, FEATURES
from unisono.errors import UsageError
from waiting import limit


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
    outcome, _, _ = run(replace(kit.make(), model=normed))
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


class Counting(keras.layers.Layer):
    """Carries a count from call to call, and keeps what it has given."""

    def __init__(self, carried: bool) -> None:
        super().__init__()
        self.carried, self.calls, self.given = carried, 0, None

    def call(self, inputs: Any) -> Any:
        self.calls = self.calls + 1 if self.carried else len(inputs.shape)
        self.given = inputs * self.calls
        return self.given


def counting(carried: bool) -> Any:
    return keras.Sequential([keras.Input((FEATURES,)), Counting(carried), keras.layers.Dense(CLASSES)])


def test_plain_attributes_are_those_before_each_trace(tmp_path: Path) -> None:
    """A short last batch is traced for itself."""
    job = replace(kit.make(batch_size=48, order="sequential", steps=6), model=lambda: counting(True))
    hold_to_one_hash(job, tmp_path, deaths=())


ON_TORCH = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
sys.path.insert(0, {tests!r})
from own_code.test_keras_models import counting, kit, replace
def job():
    return replace(kit.make(steps=4), model=lambda: counting(True))
"""


@pytest.mark.thorough
def test_plain_attributes_are_not_carried_from_microbatch_to_microbatch(tmp_path: Path) -> None:
    """Nor is the backend, which the file sets, another one in a process that imports Keras before it runs the file."""
    (tmp_path / "job.py").write_text(ON_TORCH.format(tests=str(Path(__file__).parent.parent)))
    command = [
        sys.executable,
        "-m",
        "unisono",
        "train",
        tmp_path / "job.py",
        "--workers",
        "1",
        "--out",
        tmp_path / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit())
    assert done.returncode == 1, done.stdout
    assert "counting.calls' and reads it again" in done.stderr
