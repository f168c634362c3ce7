"""A Keras job in one process: the model's variables over shared memory, gradients of microbatches, evaluation."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import load_file

from unisono.frameworks import protocol
from unisono.frameworks.arrays import aligned_copy
from unisono.frameworks.fitting import fitting
from unisono.frameworks.jobs import CUTS_BY_HAND, description, refuse, sums
from unisono.frameworks.keras import backends, losses, optimizers
from unisono.frameworks.keras.building import (
    built,
    in_precision,
    refuse_own_steps,
    refuse_summed_penalties,
)
from unisono.frameworks.keras.cutting import cutter_of
from unisono.frameworks.keras.functions import Functions
from unisono.frameworks.keras.stages.parts import Parts
from unisono.frameworks.keras.update_rules import UpdateRules
from unisono.frameworks.keras.variables import check, dtype_of, of_model, value_of
from unisono.frameworks.leaving import leave_or_nothing
from unisono.frameworks.lossrules import check_loss, no_graph
from unisono.frameworks.protocol import Array, ChunkUpdate, Measured, ModelDescription, TensorSpec
from unisono.frameworks.scratch import Scratch, States
from unisono.job import Job


class Adapter(protocol.Adapter):
    """See `unisono.frameworks.protocol.Adapter`."""

    can_add = True

    def __init__(self, job: Job, model: Any, steps: int, example: Callable[[], Any]) -> None:
        self._job, self._backend, self._example = job, backends.load(), example
        refuse(
            job, ["schedule"],
            "a Keras optimizer's learning rate follows a keras.optimizers.schedules.LearningRateSchedule",
            "Write optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(...)), or optimizer=lambda "
            "steps: ... if it depends on the run's length",
        )  # fmt: skip
        refuse(
            job, CUTS_BY_HAND, "a Keras model is cut between its layers, which it names itself",
            "Leave it out: a Sequential or functional model can be cut after any layer",
        )  # fmt: skip
        self.model = built(in_precision(model, job.precision), job, example)
        refuse_own_steps(self.model)
        refuse_summed_penalties(self.model)
        held = self._variables = of_model(self.model, self._backend.NAME != "JAX")
        check(held)
        optimizer = optimizers.made(job.optimizer, steps)
        self._settings = {"class": type(optimizer).__name__, "groups": [_plain(optimizer.get_config())]}
        self._rules = UpdateRules(optimizer, {n: held.parameters[n] for n in held.trained}, self._backend)
        self._live = [aligned_copy(self._backend.array(value_of(v))) for v in self._variables.buffers]
        self._buffers = [self._backend.alias(array) for array in self._live]
        self._parameters = [value_of(v) for v in self._variables.parameters]
        self._seeds: list[Any] = []
        self._functions = Functions(self.model, self._variables, job.forward, losses.made(job.loss), self._backend)
        self.seed(0)

    @staticmethod
    def restored(job: Job, model: Any, path: Path, example: Callable[[], Any]) -> Any:
        """See `Adapter.restored`."""
        model = built(in_precision(model, job.precision), job, example)
        values = load_file(path)
        for name, variable in of_model(model, False).named:
            variable.assign(fitting(values, name, variable.shape))
        return model

    def describe(self) -> ModelDescription:
        """See `Adapter.describe`."""
        held, rules = self._variables, self._rules
        return description(
            _specs(held.names, held.parameters), held.trained, _specs(held.buffer_names, held.buffers),
            (rules.kind, rules.state(), self._settings),
            {
                "framework": f"keras {keras.__version__}, {self._backend.version()}",
                "numpy": np.__version__,
                "device": "cpu",
                "precision": self._job.precision,
                "optimizer": f"{self._settings['class']}:{rules.kind}",
            },
        )  # fmt: skip

    # -- binding -------------------------------------------------------------------------------------------

    def initial(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.initial`."""
        for variable, array in zip(self._variables.parameters, parameters, strict=True):
            array[...] = self._backend.array(value_of(variable))

    def initial_state(self, state: States, scalars: Mapping[int, Array]) -> None:
        """See `Adapter.initial_state`."""
        self._rules.write_first(state, scalars)

    def bind(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.bind`: tensors over shared memory become the values of the model's own variables."""
        self._backend.warn_of_threads()
        held = self._variables
        self._parameters = [self._backend.alias(array) for array in parameters]
        for (_, variable), tensor in zip(held.named, (*self._parameters, *self._buffers), strict=True):
            self._backend.attach(variable, tensor)

    def compile(self) -> None:
        """See `Adapter.compile`: on JAX."""
        if self._backend.NAME == "JAX":
            self.rehearse()

    def rehearse(self) -> None:
        """See `Adapter.rehearse`: the gradient is traced or compiled for the shape of a microbatch."""
        with contextlib.suppress(Exception):
            batch = self._tensors(self._example())
            samples = self._count(1)
            self._functions.train(self._parameters, self._buffers, self._seeds, batch, samples)

    def seed(self, key: int) -> None:
        """See `Adapter.seed`: the states of the model's generators are made of the key."""
        random.seed(key)
        np.random.seed(key & 0xFFFFFFFF)
        self._backend.seed_eager(key)
        words = np.random.SeedSequence(key).generate_state(2 * len(self._variables.seeds)) & 0x7FFFFFFF
        self._seeds = [
            self._backend.tensor(pair.astype(dtype_of(variable)))
            for pair, variable in zip(words.reshape(-1, 2), self._variables.seeds, strict=True)
        ]

    def live_buffers(self) -> list[Array]:
        """See `Adapter.live_buffers`."""
        return self._live

    # -- microbatches --------------------------------------------------------------------------------------

    def gradient(self, batch: Any, samples: int, into: Mapping[int, Array], used: Array, add: bool = False) -> Measured:
        """See `Adapter.gradient`."""
        given = self._tensors(batch)
        (total, weight, outputs, buffers), gradients = self._functions.train(
            self._parameters, self._buffers, self._seeds, given, self._count(samples)
        )
        measured = self._measured(total, weight, outputs, given[1])
        if measured.weight and all(gradient is None for gradient in gradients):
            raise no_graph(outputs_have_one=False)
        for number, gradient in zip(self._variables.trained, gradients, strict=True):
            leave_or_nothing(None if gradient is None else self._backend.array(gradient), number, into, used, add)
        for live, old, new in zip(self._live, self._buffers, buffers, strict=True):
            if new is not old:
                np.copyto(live, self._backend.array(new))
        return measured

    def _measured(self, total: Any, weight: Any, outputs: Any, targets: Any) -> Measured:
        loss, number = float(self._backend.array(total)), float(self._backend.array(weight))
        check_loss(loss, number, lambda: all(map(self._is_finite, keras.tree.flatten(outputs))))
        return Measured(loss, number, sums(metric(outputs, targets) for metric in self._job.training_metrics.values()))

    def _is_finite(self, output: Any) -> bool:
        return bool(np.isfinite(self._backend.array(output)).all())

    @cached_property
    def cutter(self) -> Any:
        """See `Adapter.cutter`."""
        return cutter_of(self._job, Parts(
            self.model, self._variables, self._backend, losses.made(self._job.loss),
            lambda: (self._parameters, self._buffers, self._seeds),
            self._tensors, self._count, self._measured, self._live,
        ))  # fmt: skip

    def _tensors(self, batch: Any) -> tuple[Any, Any]:
        """A microbatch as the backend's tensors, in memory of their own."""

        def tensor(leaf: Any) -> Any:
            held = leaf is None or isinstance(leaf, self._backend.TENSORS)
            return leaf if held else self._backend.tensor(np.asarray(leaf))

        inputs, targets = batch
        return keras.tree.map_structure(tensor, inputs), keras.tree.map_structure(tensor, targets)

    def _count(self, samples: int) -> Any:
        return self._backend.tensor(np.asarray(samples, np.float32))

    def metric_objects(self, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Adapter.metric_objects`."""
        return losses.fed(metrics)

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> Measured:
        """See `Adapter.evaluate`."""
        given = self._tensors(batch)
        total, weight, outputs = self._functions.test(
            self._parameters, self._buffers, self._seeds, given, self._count(samples)
        )
        predict = self._job.predict
        if predict is not None:
            outputs = self._backend.eagerly(lambda: predict(self.model, given[0]))
        metrics = sums(metric(outputs, given[1]) for metric in self._job.metric_functions.values())
        kept = keras.tree.map_structure(self._kept, (outputs, given[1])) if keep_outputs else None
        return Measured(float(self._backend.array(total)), float(self._backend.array(weight)), metrics, kept)

    def _kept(self, value: Any) -> Any:
        """An output as an array that can travel."""
        return np.ascontiguousarray(self._backend.array(value))

    def export(self, path: Path) -> None:
        """Keep the whole model, architecture and all, in a `.keras` file."""
        if isinstance(self.model, keras.Model):
            aside = path.with_suffix(f".tmp{path.suffix}")
            self.model.save(aside)
            aside.replace(path)

    # -- update --------------------------------------------------------------------------------------------

    def chunk_update(self, scratch: Scratch) -> ChunkUpdate:
        """See `Adapter.chunk_update`."""
        return self._rules.chunk_update(scratch)

    def learning_rate(self) -> float:
        """See `Adapter.learning_rate`."""
        return self._rules.learning_rate(self.steps_done)


def _specs(names: Sequence[str], variables: Sequence[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(n, tuple(v.shape), dtype_of(v)) for n, v in zip(names, variables, strict=True))


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, int | float | str | None) else repr(value) for name, value in config.items()
    }
