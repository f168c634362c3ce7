"""A toy job in one process; `job.optimizer` gives a learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from toy_adapter.data import Data
from unisono import Job
from unisono.frameworks import protocol
from unisono.frameworks.protocol import (
    Array,
    ChunkUpdate,
    Measured,
    ModelDescription,
    Scratch,
    Source,
    StateSpec,
    TensorSpec,
)

NAMES = ("weight", "bias")


class Adapter(protocol.Adapter):
    def __init__(self, job: Job, model: Any, steps: int, example: Callable[[], Any]) -> None:
        self._job, self._model, self._lr = job, model, job.optimizer(model)

    @staticmethod
    def restored(job: Job, model: Any, path: Path, example: Callable[[], Any]) -> Any:
        vars(model).update(load_file(path))
        return model

    def describe(self) -> ModelDescription:
        specs = tuple(TensorSpec(name, vars(self._model)[name].shape, "float32") for name in NAMES)
        return ModelDescription(
            parameters=specs, owners=(0, 0), kinds=("elementwise",), states=(StateSpec({}, ()),), buffers=(),
            saved=tuple(Source(name, "parameter", number) for number, name in enumerate(NAMES)),
            optimizers=({"class": "descent", "groups": [{"lr": self._lr}]},),
            fingerprint={"framework": "toynet", "numpy": np.__version__, "device": "cpu"},
        )  # fmt: skip

    def initial(self, parameters: Sequence[Array]) -> None:
        for array, name in zip(parameters, NAMES, strict=True):
            array[...] = vars(self._model)[name]

    def bind(self, parameters: Sequence[Array]) -> None:
        vars(self._model).update(zip(NAMES, parameters, strict=True))

    def seed(self, key: int) -> None:
        Data.seed_everything(key)

    def gradient(self, batch: Any, samples: int, into: Any, used: Array, add: bool = False) -> Measured:
        inputs, targets = batch
        total, slope = self._job.loss(self._model(inputs), targets)
        into[0][...], into[1][...] = slope.T @ inputs, slope.sum(axis=0)
        used[:] = 1
        return Measured(float(total), float(samples))

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> Measured:
        inputs, targets = batch
        return Measured(float(self._job.loss(self._model(inputs), targets)[0]), float(samples))

    def chunk_update(self, scratch: Scratch) -> ChunkUpdate:
        return Descent(self._lr, scratch.parameters, scratch.gradients)


class Descent:
    def __init__(self, lr: float, parameters: Array, gradients: Array) -> None:
        self._lr, self._parameters, self._gradients = np.float32(lr), parameters, gradients

    def step(self, before: Array, after: Array, used: Array) -> None:
        self._parameters -= self._lr * self._gradients
