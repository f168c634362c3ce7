"""A Keras job in one process: the model's variables over shared memory, gradients of microbatches, evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import load_file

from unisono.frameworks import protocol
from unisono.frameworks.arrays import aligned_copy, leave_or_nothing
from unisono.frameworks.jobs import CUTS_BY_HAND, description, measured, plain, refuse, refuse_tf32, saved_value, sums
from unisono.frameworks.keras import losses, optimizers
from unisono.frameworks.keras.backends import BACKEND
from unisono.frameworks.keras.building import (
    built,
    cutter_of,
    in_precision,
    refuse_own_steps,
    refuse_summed_penalties,
)
from unisono.frameworks.keras.functions import Functions
from unisono.frameworks.keras.update_rules import UpdateRules
from unisono.frameworks.keras.variables import Values, check, dtype_of, of_model, value_of
from unisono.frameworks.lossrules import no_graph
from unisono.frameworks.protocol import Array, ChunkUpdate, DataFunctions, Measured, ModelDescription, Scratch, States
from unisono.job import Job


class Adapter(protocol.Adapter):
    """See `unisono.frameworks.protocol.Adapter`.

    Attributes:
        model, variables: the model and its variables.
        loss: (targets, outputs) → per-sample values, their mean, or (total, weight).
        live: the buffers' arrays.
    """

    can_add = True

    def __init__(self, job: Job, model: Any, steps: int, example: Callable[[], Any]) -> None:
        self._job, self._example = job, example
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
        refuse_tf32(job, "Keras")
        self.model = built(in_precision(model, job.precision), job, example)
        refuse_own_steps(self.model)
        refuse_summed_penalties(self.model)
        held = self.variables = of_model(self.model, BACKEND.NAME != "JAX")
        check(held)
        optimizer = optimizers.made(job.optimizer, steps)
        self._settings = {"class": type(optimizer).__name__, "groups": [plain(optimizer.get_config())]}
        self._rules = UpdateRules(optimizer, {n: held.parameters[n] for n in held.trained})
        self.live = [aligned_copy(BACKEND.array(value_of(v))) for v in self.variables.buffers]
        self._buffers = [BACKEND.alias(array) for array in self.live]
        self._parameters = [value_of(v) for v in self.variables.parameters]
        self._seeds: list[Any] = []
        self.loss = losses.made(job.loss)
        self._functions = Functions(self.model, self.variables, job.forward, self.loss)
        self.seed(0)

    @staticmethod
    def restored(job: Job, model: Any, path: Path, example: Callable[[], Any]) -> Any:
        """See `Adapter.restored`."""
        model = built(in_precision(model, job.precision), job, example)
        values = load_file(path)
        for name, variable in of_model(model, False).named:
            variable.assign(saved_value(values, name, variable.shape))
        return model

    def describe(self) -> ModelDescription:
        """See `Adapter.describe`."""
        held, rules = self.variables, self._rules
        owners = [0 if number in held.trained else None for number in range(len(held.parameters))]
        return description(
            self._job, held.named[: len(owners)], owners, held.named[len(owners) :], dtype_of,
            [(rules.kind, rules.state(), self._settings)],
            {
                "framework": f"keras {keras.__version__}, {BACKEND.version()}",
                "optimizer": f"{self._settings['class']}:{rules.kind}",
            },
        )  # fmt: skip

    # -- binding -------------------------------------------------------------------------------------------

    def initial(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.initial`."""
        for variable, array in zip(self.variables.parameters, parameters, strict=True):
            array[...] = BACKEND.array(value_of(variable))

    def initial_state(self, state: States, scalars: Mapping[int, Array]) -> None:
        """See `Adapter.initial_state`."""
        self._rules.write_first(state, scalars)

    def bind(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.bind`: tensors over shared memory become the values of the model's own variables."""
        BACKEND.warn_of_threads()
        held = self.variables
        self._parameters = [BACKEND.alias(array) for array in parameters]
        for (_, variable), tensor in zip(held.named, (*self._parameters, *self._buffers), strict=True):
            BACKEND.attach(variable, tensor)

    def compile(self) -> None:
        """See `Adapter.compile`: on JAX."""
        if BACKEND.NAME == "JAX":
            self.rehearse()

    def rehearse(self) -> None:
        """See `Adapter.rehearse`: the gradient is traced or compiled for the shape of a microbatch."""
        with contextlib.suppress(Exception):
            batch = self.tensors(self._example())
            samples = self.count(1)
            self._functions.train(self.values(), batch, samples)

    def seed(self, key: int) -> None:
        """See `Adapter.seed`: the states of the model's generators are made of the key."""
        DataFunctions.seed_everything(key)
        BACKEND.seed_eager(key)
        words = np.random.SeedSequence(key).generate_state(2 * len(self.variables.seeds)) & 0x7FFFFFFF
        self._seeds = [
            BACKEND.tensor(pair.astype(dtype_of(variable)))
            for pair, variable in zip(words.reshape(-1, 2), self.variables.seeds, strict=True)
        ]

    def live_buffers(self) -> list[Array]:
        """See `Adapter.live_buffers`."""
        return self.live

    # -- microbatches --------------------------------------------------------------------------------------

    def gradient(self, batch: Any, samples: int, into: Mapping[int, Array], used: Array, add: bool = False) -> Measured:
        """See `Adapter.gradient`."""
        given = self.tensors(batch)
        (total, weight, outputs, buffers), gradients = self._functions.train(self.values(), given, self.count(samples))
        found = self.measured(total, weight, outputs, given[1])
        if found.weight and all(gradient is None for gradient in gradients):
            raise no_graph(outputs_have_one=False)
        for number, gradient in zip(self.variables.trained, gradients, strict=True):
            leave_or_nothing(None if gradient is None else BACKEND.array(gradient), number, into, used, add)
        for live, old, new in zip(self.live, self._buffers, buffers, strict=True):
            if new is not old:
                np.copyto(live, BACKEND.array(new))
        return found

    def measured(self, total: Any, weight: Any, outputs: Any, targets: Any) -> Measured:
        """What a microbatch gave; refuses a loss that is not finite."""
        loss, number = float(BACKEND.array(total)), float(BACKEND.array(weight))
        pairs = (metric(outputs, targets) for metric in self._job.training_metrics.values())
        arrays = map(BACKEND.array, keras.tree.flatten(outputs))
        return measured(loss, number, pairs, lambda: all(np.isfinite(array).all() for array in arrays))

    @cached_property
    def cutter(self) -> Any:
        """See `Adapter.cutter`."""
        return cutter_of(self._job, self)

    def values(self) -> Values:
        """The values of the model's variables."""
        return Values(self._parameters, self._buffers, self._seeds)

    def tensors(self, batch: Any) -> tuple[Any, Any]:
        """A microbatch as the backend's tensors, in memory of their own."""

        def tensor(leaf: Any) -> Any:
            held = leaf is None or isinstance(leaf, BACKEND.TENSORS)
            return leaf if held else BACKEND.tensor(np.asarray(leaf))

        inputs, targets = batch
        return keras.tree.map_structure(tensor, inputs), keras.tree.map_structure(tensor, targets)

    def count(self, samples: int) -> Any:
        """The number of samples as a tensor."""
        return BACKEND.tensor(np.asarray(samples, np.float32))

    def metric_objects(self, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Adapter.metric_objects`."""
        return {name: losses.fed(metric) for name, metric in metrics.items()}

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> Measured:
        """See `Adapter.evaluate`."""
        given = self.tensors(batch)
        total, weight, outputs = self._functions.test(self.values(), given, self.count(samples))
        predict = self._job.predict
        if predict is not None:
            outputs = BACKEND.eagerly(lambda: predict(self.model, given[0]))
        metrics = sums(metric(outputs, given[1]) for metric in self._job.metric_functions.values())
        travelling = lambda value: np.ascontiguousarray(BACKEND.array(value))  # noqa: E731
        kept = keras.tree.map_structure(travelling, (outputs, given[1])) if keep_outputs else None
        return Measured(float(BACKEND.array(total)), float(BACKEND.array(weight)), metrics, kept)

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
