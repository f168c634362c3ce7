"""Keras optimizers of one's own: every variable of theirs is kept, and nothing else may change."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("TensorFlow is not installed in this environment", allow_module_level=True)

import keras

from everywhere import hold_to_one_hash
from faults import Fault, run
from frameworks.loops.keras import Loop
from held import hold
from unisono import Job
from unisono.errors import UnisonoError
from unisono.frameworks.keras.data import Data
from unisono.runtime.supervisor.outcome import raise_failure

Data().pin(1)  # before anything here computes: as the workers do

DEATHS = (Fault("microbatch", 2, 0), Fault("marked", 2, 1), Fault("updated", 3, 1), Fault("commit", 4, 0))
RNG = np.random.default_rng(0)
SAMPLES = list(zip(RNG.normal(size=(96, 8)).astype("float32"), RNG.integers(0, 3, 96), strict=True))


class Scale(keras.layers.Layer):
    """A factor that is learnt."""

    def build(self, shape: Any) -> None:
        self.factor = self.add_weight(shape=(), initializer="ones", name="factor")

    def call(self, inputs: Any) -> Any:
        return inputs * keras.ops.exp(self.factor)


class Own(keras.optimizers.Optimizer):
    """Momentum, an integer that decides by its last digit, and the last norms."""

    def __init__(self, learning_rate: float = 0.05, **more: Any) -> None:
        super().__init__(learning_rate=learning_rate, **more)
        self.calls = 0

    def build(self, variables: Any) -> None:
        super().build(variables)
        self.moments = [self.add_variable_from_reference(variable, name="moment") for variable in variables]
        self.count = self.add_variable(shape=(), dtype="int32", name="count", initializer="zeros")
        self.norms = self.add_variable(shape=(3,), name="norms", initializer="zeros")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        moment = self.moments[self._get_variable_index(variable)]
        self.assign(moment, moment * 0.9 + gradient)
        self.assign(self.count, self.count + 1)
        norm = keras.ops.reshape(keras.ops.sum(gradient * gradient), (1,))
        self.assign(self.norms, keras.ops.concatenate([self.norms[1:], norm]))
        rate = learning_rate * (1.0 + keras.ops.cast(self.count % 2, "float32")) / (1.0 + keras.ops.max(self.norms))
        self.assign_sub(variable, rate * moment)


class Counting(Own):
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.calls += 1
        super().update_step(gradient, variable, learning_rate)


class Around(Own):
    """A variable that Keras does not know of."""

    def build(self, variables: Any) -> None:
        super().build(variables)
        self.holder = SimpleNamespace(total=keras.Variable(0.0))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.holder.total.assign(self.holder.total + 1.0)
        self.assign_sub(variable, gradient * learning_rate / self.holder.total)


class Plain(Loop):
    """What an optimizer keeps is compared by what follows from it."""

    def state(self) -> Any:
        return {}


def job(kind: Any) -> Job:
    return Job(
        model=lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(3), Scale()]), data=SAMPLES,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), optimizer=lambda steps: kind(),
        batch_size=32, microbatches=4, steps=6,
    )  # fmt: skip


def test_every_variable_of_an_optimizer_outlives_workers(tmp_path: Path) -> None:
    hold(job(Own), Plain, 1e-5)
    hold_to_one_hash(job(Own), tmp_path, deaths=DEATHS)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["Adam", "SGD", "Adafactor", "Lamb", "Ftrl"])
def test_a_factor_without_dimensions_is_learnt(name: str, tmp_path: Path) -> None:
    hold_to_one_hash(job(lambda: getattr(keras.optimizers, name)(0.05)), tmp_path, all_of_them=True, deaths=())


@pytest.mark.parametrize(("kind", "what"), [(Counting, "self.calls"), (Around, "a variable that is not among")])
def test_what_is_kept_beside_the_variables_is_refused(kind: Any, what: str) -> None:
    with pytest.raises(UnisonoError, match=f"{kind.__name__} changes {what}"):
        raise_failure(run(job(kind))[0])
