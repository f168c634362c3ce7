"""An MXNet job in one process: parameters bound to shared memory, gradients of microbatches, evaluation."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mxnet
import numpy as np
from mxnet import autograd
from mxnet.gluon import Block
from safetensors.numpy import load_file

from unisono.frameworks import protocol
from unisono.frameworks.arrays import leave_first
from unisono.frameworks.jobs import description, saved_value
from unisono.frameworks.lossrules import no_graph
from unisono.frameworks.mxnet import determinism, engine
from unisono.frameworks.mxnet import parameters as held
from unisono.frameworks.mxnet.attributes import attributes_of, given
from unisono.frameworks.mxnet.calls import Calls
from unisono.frameworks.mxnet.data import as_framework
from unisono.frameworks.mxnet.metrics import adapted, as_float
from unisono.frameworks.mxnet.optimizers import Master, built
from unisono.frameworks.mxnet.seeding import seed_everything
from unisono.frameworks.mxnet.stages.cutter import Cutter
from unisono.frameworks.mxnet.update import MxnetChunkUpdate
from unisono.frameworks.mxnet.weights import Weights
from unisono.frameworks.protocol import Array, ChunkUpdate, Measured, ModelDescription, Scratch, States
from unisono.job import Job
from unisono.partition.keys import key


class Adapter(protocol.Adapter):
    """See `unisono.frameworks.protocol.Adapter`.

    Attributes:
        model, weights: the model and its parameters.
        calls: how the model, the loss and metrics are called.
        example: gives the (inputs, targets) of some microbatch.
        seeded: what `seed` was last called with; MXNet can't be asked.
    """

    def __init__(self, job: Job, model: Any, steps: int, example: Callable[[], Any]) -> None:
        self._job, self.example = job, example
        self.calls = Calls(job, model)
        self.model: Block = model
        held.initialise(model, job.seed, lambda: as_framework(example()), self.calls.forward)
        self.weights = Weights(model)
        self._attributes = attributes_of(model, job.loss)
        self._master = Master(built(job.optimizer, job.schedule, steps), self.weights.trained)
        self._step = 0
        self.seeded = 0

    @staticmethod
    def restored(job: Job, model: Any, path: Path, example: Callable[[], Any]) -> Any:
        """See `Adapter.restored`."""
        tensors = load_file(path)
        for name, parameter in held.names(model).items():
            known = parameter.shape and min(parameter.shape) > 0
            value = saved_value(tensors, name, parameter.shape if known else None)
            parameter._load_init(as_framework(value), mxnet.cpu())
        return model

    @staticmethod
    def answering(model: Any) -> contextlib.AbstractContextManager[Any]:
        """See `Adapter.answering`."""
        return autograd.pause(train_mode=False)  # type: ignore[no-any-return]

    # -- description ---------------------------------------------------------------------------------------

    def describe(self) -> ModelDescription:
        """See `Adapter.describe`."""
        weights, master = self.weights, self._master
        owners = [0 if number in weights.trained else None for number in range(len(weights.parameters))]
        return description(
            self._job, weights.parameters, owners, weights.buffers, held.dtype_name,
            [(master.kind, master.spec, master.settings)],
            {
                "framework": f"mxnet {mxnet.__version__}",
                "cpu_capability": engine.cpu_capability(),
                "engine": "naive" if engine.is_naive() else "threaded",
                "optimizer": master.name,
            },
            list(weights.names.items()),
        )  # fmt: skip

    # -- binding -------------------------------------------------------------------------------------------

    def initial(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.initial`."""
        for (_, parameter), array in zip(self.weights.parameters, parameters, strict=True):
            array[...] = parameter.data().asnumpy()

    def initial_state(self, state: States, scalars: Mapping[int, Array]) -> None:
        """See `Adapter.initial_state`: MXNet makes it from the weight."""
        for number, parameter in self.weights.trained.items():
            weight = mxnet.nd.array(parameter.data().asnumpy(), dtype=parameter.dtype)
            arrays, row = self._master.initial(number, weight)
            for path, array in arrays.items():
                leave_first(array, state[number][path])
            scalars[number][: 1 + len(row)] = [1.0, *row]

    def bind(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.bind`."""
        self.weights.bind(parameters)

    def refresh(self, step: int) -> None:
        """See `Adapter.refresh`: training sees shared memory itself; evaluation copies it once a step."""
        self._step = step

    def rehearse(self) -> None:
        """See `Adapter.rehearse`. Running statistics may change: they are overwritten before every microbatch."""
        with contextlib.suppress(Exception):
            inputs, targets = self.example()
            first = inputs[0] if isinstance(inputs, tuple) else inputs
            empty = {number: np.zeros(p.shape, held.dtype_name(p)) for number, p in self.weights.trained.items()}
            used = np.zeros(len(self.weights.parameters), np.uint8)
            self.seed(0)
            self.gradient((inputs, targets), len(first), self.gradient_buffers(empty), used)

    def seed(self, key: int) -> None:
        """See `Adapter.seed`."""
        self.seeded = key
        seed_everything(key)

    def live_buffers(self) -> list[Array]:
        """See `Adapter.live_buffers`."""
        return self.weights.live

    # -- microbatches --------------------------------------------------------------------------------------

    def metric_objects(self, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Adapter.metric_objects`."""
        return {name: adapted(name, metric) for name, metric in metrics.items()}

    def gradient_buffers(self, arrays: Mapping[int, Array]) -> list[tuple[Array, Any]]:
        """One microbatch's destinations, in the order of the trained parameters: arrays and MXNet's over them."""
        return [(arrays[number], held.over(arrays[number])) for number in self.weights.trained]

    def gradient(self, batch: Any, samples: int, into: Any, used: Array, add: bool = False) -> Measured:
        """See `Adapter.gradient`; MXNet writes gradients into their places itself, and never adds."""
        inputs, targets = as_framework(tuple(batch))
        with self.weights.computing():
            trained = [parameter.data() for parameter in self.weights.trained.values()]
            autograd.mark_variables(trained, [array for _, array in into], "write")  # none of them is fresh now
            one_pass = self._attributes.one_pass(lambda: given(inputs))
            with self.weights.unchanged(), one_pass, autograd.record():
                outputs = self.calls.forward(inputs)
                total, weight = self.calls.loss(outputs, targets, samples)
                mxnet.nd.waitall()
        loss = self.calls.finite(total, weight, outputs)
        determinism.check(total, self.model)
        total.backward()
        mxnet.nd.waitall()
        if weight and not any(array._fresh_grad for array in trained):
            raise no_graph(outputs_have_one=False)
        for number, array, (destination, _) in zip(self.weights.trained, trained, into, strict=True):
            if array._fresh_grad:
                used[number] = 1
            else:
                destination[...] = 0
        return Measured(loss, weight, self.calls.metrics(self._job.training_metrics, outputs, targets))

    @functools.cached_property
    def cutter(self) -> Cutter:
        """See `Adapter.cutter`."""
        return Cutter(self._job, self)

    # -- evaluation ----------------------------------------------------------------------------------------

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> Measured:
        """See `Adapter.evaluate`."""
        inputs, targets = as_framework(tuple(batch))
        self.weights.use_copies(self._step)
        with self._attributes.one_pass(lambda: given(inputs)), autograd.pause():
            outputs = self.calls.forward(inputs)
            total, weight = self.calls.loss(outputs, targets, samples)
            predicted = outputs if self._job.predict is None else self._job.predict(self.model, inputs)
            metrics = self.calls.metrics(self._job.metric_functions, predicted, targets)
        mxnet.nd.waitall()
        return Measured(as_float(total), weight, metrics, (predicted, targets) if keep_outputs else None)

    # -- update --------------------------------------------------------------------------------------------

    def chunk_update(self, scratch: Scratch) -> ChunkUpdate:
        """See `Adapter.chunk_update`."""
        return MxnetChunkUpdate(
            self._master, scratch, lambda step: seed_everything(key(self._job.seed, "update", step))
        )

    def advance_schedule(self) -> None:
        """See `Adapter.advance_schedule`."""
        self._master.advance()

    def learning_rate(self) -> float:
        """See `Adapter.learning_rate`."""
        return self._master.rate
