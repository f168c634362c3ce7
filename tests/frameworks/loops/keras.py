"""Keras's piece of the plain loop, on TensorFlow: eager calls under a tape, and the optimizer's own `apply`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from plain_loop import Array, Part
from unisono import Job

TOLERANCE = 1e-5
"""Operations called one by one may get other bits than those of a graph."""


class Loop:
    """See `plain_loop.Model`."""

    def __init__(self, job: Job, steps: int) -> None:
        self.job = job
        keras.utils.set_random_seed(job.seed)
        keras.backend.clear_session()  # names are counted from the start, as in a new process
        self.model = job.model()
        self.optimizer = job.optimizer(steps)
        self.optimizer.build(self.model.trainable_variables)
        untrained = self.model.non_trainable_variables
        self.seeds = [variable for variable in untrained if variable.path.endswith("seed_generator_state")]
        self.statistics = [variable for variable in untrained if not variable.path.endswith("seed_generator_state")]

    def seed(self, number: int) -> None:
        """Keras's layers have generators of their own, whose states are made of the number."""
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)
        words = np.random.SeedSequence(number).generate_state(2 * len(self.seeds)) & 0x7FFFFFFF
        for variable, pair in zip(self.seeds, words.reshape(-1, 2), strict=True):
            variable.assign(pair.astype("uint32"))

    def collate(self, samples: Sequence[Any]) -> Any:
        return tuple(tf.constant(np.stack(column)) for column in zip(*samples, strict=True))

    @property
    def buffers(self) -> list[Array]:
        return [variable.numpy().copy() for variable in self.statistics]

    @buffers.setter
    def buffers(self, values: Sequence[Array]) -> None:
        for variable, value in zip(self.statistics, values, strict=True):
            variable.assign(value)

    def _measured(self, outputs: Any, targets: Any, samples: int) -> tuple[Any, Part]:
        loss = self.job.loss(targets, outputs)
        total, weight = loss if isinstance(loss, tuple) else (tf.reduce_mean(loss) * samples, samples)
        pairs = [metric(outputs, targets) for metric in self.job.metrics.values()]
        return total, Part(float(total), float(weight), [(float(a), float(b)) for a, b in pairs])

    def gradient(self, batch: Any, samples: int) -> Part:
        inputs, targets = batch
        with tf.GradientTape() as tape:
            total, part = self._measured(self.model(inputs, training=True), targets, samples)
        parameters = [variable.value for variable in self.model.trainable_variables]
        part.gradients = [gradient.numpy() for gradient in tape.gradient(total, parameters)]
        part.buffers = self.buffers
        return part

    def evaluate(self, batch: Any, samples: int) -> Part:
        inputs, targets = batch
        return self._measured(self.model(inputs, training=False), targets, samples)[1]

    @property
    def rate(self) -> float:
        return float(self.optimizer.learning_rate)

    def update(self, gradients: Sequence[Array | None]) -> None:
        self.optimizer.apply([tf.constant(gradient) for gradient in gradients])

    def saved(self) -> Mapping[str, Array]:
        held = (*self.model.trainable_variables, *self.statistics)
        return {variable.path: variable.numpy() for variable in held}

    def state(self) -> Mapping[str, Array]:
        optimizer = self.optimizer
        momenta = optimizer._momentums if hasattr(optimizer, "_momentums") else optimizer.momentums  # Adam's, SGD's
        kinds = {"momentum": momenta, "velocity": getattr(optimizer, "_velocities", [])}
        return {
            f"{variable.path}/{kind}": vector.numpy()
            for kind, vectors in kinds.items()
            for variable, vector in zip(self.model.trainable_variables, vectors, strict=bool(vectors))
        }
