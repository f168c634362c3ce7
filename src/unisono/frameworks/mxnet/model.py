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
from mxnet.ndarray import NDArray
from safetensors.numpy import load_file

from unisono.errors import JobError, UsageError
from unisono.frameworks import protocol
from unisono.frameworks.fitting import fitting
from unisono.frameworks.leaving import leave_first
from unisono.frameworks.lossrules import check_loss, no_graph
from unisono.frameworks.mxnet import determinism, engine
from unisono.frameworks.mxnet import parameters as held
from unisono.frameworks.mxnet.attributes import shapes, watched
from unisono.frameworks.mxnet.data import as_framework
from unisono.frameworks.mxnet.metrics import adapted, as_float
from unisono.frameworks.mxnet.optimizers import Master, built
from unisono.frameworks.mxnet.seeding import seed_everything
from unisono.frameworks.mxnet.stages.cutter import Cutter
from unisono.frameworks.mxnet.stages.stage import Process
from unisono.frameworks.mxnet.update import MxnetChunkUpdate
from unisono.frameworks.mxnet.weights import Weights
from unisono.frameworks.protocol import Array, ChunkUpdate, Measured, ModelDescription, Source, Stage, Unit
from unisono.gradients.regions import Chunk, Region
from unisono.job import Job
from unisono.partition.keys import key


def _check_job(job: Job, model: Any) -> None:
    if not isinstance(model, Block):
        raise UsageError(
            f"the model of an MXNet job is a gluon Block; received {type(model).__name__}. Write model=Net or "
            "model=lambda: Net(...); wrap a Symbol in gluon.SymbolBlock."
        )
    if not callable(job.loss):
        raise UsageError(
            f"the loss of an MXNet job is a gluon loss or a function (outputs, targets); received {job.loss!r}. Write "
            "loss=gluon.loss.SoftmaxCrossEntropyLoss()."
        )
    if job.precision != "float32":
        raise UsageError(
            f"MXNet jobs compute in float32: its mixed precision was made for GPUs and rewrites the graph; received "
            f"precision={job.precision!r}. Leave it out."
        )
    for name in ("stages", "split_points"):
        if getattr(job, name) is not None:
            raise UsageError(
                f"a gluon Sequential is cut between its blocks, without being told where; received job.{name}. Leave "
                "it out."
            )


def _finite(total: Any, weight: float, outputs: Any) -> float:
    loss = as_float(total)
    check_loss(loss, weight, lambda: bool(np.isfinite(outputs.asnumpy()).all()))
    return loss


class Adapter(protocol.Adapter):
    """See `unisono.frameworks.protocol.Adapter`."""

    def __init__(self, job: Job, model: Any, steps: int, example: Callable[[], Any]) -> None:
        self._job, self._example = job, example
        _check_job(job, model)
        self.model: Block = model
        held.initialise(model, job.seed, lambda: as_framework(example()), self._forward)
        self._weights = Weights(model)
        self._attributes = watched(model, job.loss)
        self._master = Master(built(job.optimizer, job.schedule, steps), self._weights.trained)
        self._step = 0
        self._seeded = 0

    @staticmethod
    def restored(job: Job, model: Any, path: Path, example: Callable[[], Any]) -> Any:
        """See `Adapter.restored`."""
        tensors = load_file(path)
        for name, parameter in held.names(model).items():
            known = parameter.shape and min(parameter.shape) > 0
            value = fitting(tensors, name, parameter.shape if known else None)
            parameter._load_init(as_framework(value), mxnet.cpu())
        return model

    @staticmethod
    def answering(model: Any) -> contextlib.AbstractContextManager[Any]:
        """See `Adapter.answering`."""
        return autograd.pause(train_mode=False)  # type: ignore[no-any-return]

    # -- description ---------------------------------------------------------------------------------------

    def describe(self) -> ModelDescription:
        """See `Adapter.describe`."""
        weights = self._weights
        places = {id(p): ("parameter" if n in weights.trained else "frozen", n)
                  for n, (_, p) in enumerate(weights.parameters)}  # fmt: skip
        places.update({id(parameter): ("buffer", index) for index, (_, parameter) in enumerate(weights.buffers)})
        return ModelDescription(
            parameters=tuple(held.spec(*pair) for pair in weights.parameters),
            owners=tuple(0 if number in weights.trained else None for number in range(len(weights.parameters))),
            kinds=(self._master.kind,),
            states=(self._master.spec,),
            buffers=tuple(held.spec(*pair) for pair in weights.buffers),
            saved=tuple(Source(name, *places[id(p)]) for name, p in weights.names.items()),  # type: ignore[arg-type]
            optimizers=(self._master.settings,),
            fingerprint={
                "framework": f"mxnet {mxnet.__version__}",
                "numpy": np.__version__,
                "cpu_capability": engine.cpu_capability(),
                "device": "cpu",
                "precision": self._job.precision,
                "engine": "naive" if engine.is_naive() else "threaded",
                "optimizer": self._master.name,
            },
        )

    # -- binding -------------------------------------------------------------------------------------------

    def initial(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.initial`."""
        for (_, parameter), array in zip(self._weights.parameters, parameters, strict=True):
            array[...] = parameter.data().asnumpy()

    def initial_state(self, state: Mapping[int, Mapping[str, Array]], scalars: Mapping[int, Array]) -> None:
        """See `Adapter.initial_state`: MXNet makes it from the weight."""
        for number, parameter in self._weights.trained.items():
            weight = mxnet.nd.array(parameter.data().asnumpy(), dtype=parameter.dtype)
            arrays, row = self._master.initial(number, weight)
            for path, array in arrays.items():
                leave_first(array, state[number][path])
            scalars[number][: 1 + len(row)] = [1.0, *row]

    def bind(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.bind`."""
        self._weights.bind(parameters)

    def refresh(self, step: int) -> None:
        """See `Adapter.refresh`: training sees shared memory itself; evaluation copies it once a step."""
        self._step = step

    def rehearse(self) -> None:
        """See `Adapter.rehearse`. Running statistics may change: they are overwritten before every microbatch."""
        with contextlib.suppress(Exception):
            inputs, targets = self._example()
            first = inputs[0] if isinstance(inputs, tuple) else inputs
            empty = {number: np.zeros(p.shape, held.dtype_name(p)) for number, p in self._weights.trained.items()}
            used = np.zeros(len(self._weights.parameters), np.uint8)
            self.seed(0)
            self.gradient((inputs, targets), len(first), self.gradient_buffers(empty), used)

    def seed(self, key: int) -> None:
        """See `Adapter.seed`."""
        self._seeded = key
        seed_everything(key)

    def live_buffers(self) -> list[Array]:
        """See `Adapter.live_buffers`."""
        return self._weights.live

    # -- microbatches --------------------------------------------------------------------------------------

    def _forward(self, inputs: Any) -> Any:
        if self._job.forward is not None:
            return self._job.forward(self.model, inputs)
        if isinstance(inputs, Mapping):
            raise JobError(
                f"gluon blocks take their inputs by position; received a mapping of {', '.join(map(str, inputs))}. "
                "Pass forward=(model, inputs) -> outputs."
            )
        spread = isinstance(inputs, tuple) and not hasattr(inputs, "_fields")  # a named tuple is one thing
        return self.model(*inputs) if spread else self.model(inputs)

    def _loss(self, outputs: Any, targets: Any, samples: int) -> tuple[Any, float]:
        """(Σ loss, weight) of what the job's loss gave: one value a sample, their mean, or (total, weight)."""
        result = self._job.loss(outputs, targets)
        if isinstance(result, tuple):
            return result[0], as_float(result[1])
        shape = result.shape if isinstance(result, NDArray) else None
        if shape is not None and int(np.prod(shape)) == samples:
            return result.sum(), float(samples)
        if shape is not None and int(np.prod(shape)) == 1:
            return result * samples, float(samples)
        raise JobError(
            f"job.loss must return one value a sample ({samples} here), their mean, or (total, weight); received "
            f"{type(result).__name__ if shape is None else shape}. gluon's losses do the first; else return "
            "(losses.sum(), losses.size)."
        )

    def metric_objects(self, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Adapter.metric_objects`."""
        return {name: adapted(name, metric) for name, metric in metrics.items()}

    def _metrics(self, functions: Mapping[str, Any], outputs: Any, targets: Any) -> tuple[tuple[float, float], ...]:
        pairs = [metric(outputs, targets) for metric in functions.values()]
        return tuple((as_float(total), as_float(count)) for total, count in pairs)

    def gradient_buffers(self, arrays: Mapping[int, Array]) -> list[tuple[Array, Any]]:
        """One microbatch's destinations, in the order of the trained parameters: arrays and MXNet's over them."""
        return [(arrays[number], held.over(arrays[number])) for number in self._weights.trained]

    def gradient(self, batch: Any, samples: int, into: Any, used: Array, add: bool = False) -> Measured:
        """See `Adapter.gradient`; MXNet writes gradients into their places itself, and never adds."""
        inputs, targets = as_framework(tuple(batch))
        self._weights.use_shared()
        trained = [parameter.data() for parameter in self._weights.trained.values()]
        autograd.mark_variables(trained, [array for _, array in into], "write")  # none of them is fresh now
        self._weights.training = True
        try:
            one_pass = self._attributes.one_pass(lambda: shapes(inputs))
            with self._weights.unchanged(), one_pass, autograd.record():
                outputs = self._forward(inputs)
                total, weight = self._loss(outputs, targets, samples)
                mxnet.nd.waitall()
        finally:
            self._weights.training = False
        loss = _finite(total, weight, outputs)
        determinism.check(total, self.model)
        total.backward()
        mxnet.nd.waitall()
        if weight and not any(array._fresh_grad for array in trained):
            raise no_graph(outputs_have_one=False)
        for number, array, (destination, _) in zip(self._weights.trained, trained, into, strict=True):
            if array._fresh_grad:
                used[number] = 1
            else:
                destination[...] = 0
        return Measured(loss, weight, self._metrics(self._job.training_metrics, outputs, targets))

    # -- stages --------------------------------------------------------------------------------------------

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        """See `Adapter.units`."""
        return self._cutter.units(batch, samples)

    def stage(self, cuts: tuple[int, ...], index: int, recompute: bool) -> Stage:
        """See `Adapter.stage`."""
        return self._cutter.stage(cuts, index, recompute)

    @functools.cached_property
    def _cutter(self) -> Cutter:
        def measured(total: Any, weight: float, outputs: Any, targets: Any) -> Measured:
            metrics = self._metrics(self._job.training_metrics, outputs, targets)
            return Measured(_finite(total, weight, outputs), weight, metrics)

        return Cutter(
            self._job, self.model,
            Process(
                self._weights, self._loss, measured, self._example, self.seed, lambda: self._seeded, self.gradient,
                self.gradient_buffers,
            ),
        )  # fmt: skip

    # -- evaluation ----------------------------------------------------------------------------------------

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> Measured:
        """See `Adapter.evaluate`."""
        inputs, targets = as_framework(tuple(batch))
        self._weights.use_copies(self._step)
        with self._attributes.one_pass(lambda: shapes(inputs)), autograd.pause():
            outputs = self._forward(inputs)
            total, weight = self._loss(outputs, targets, samples)
            predicted = outputs if self._job.predict is None else self._job.predict(self.model, inputs)
            metrics = self._metrics(self._job.metric_functions, predicted, targets)
        mxnet.nd.waitall()
        return Measured(as_float(total), weight, metrics, (predicted, targets) if keep_outputs else None)

    # -- update --------------------------------------------------------------------------------------------

    def chunk_update(
        self,
        region: Region,
        chunk: Chunk,
        parameters: Array,
        gradients: Array,
        state: Mapping[int, Mapping[str, Array]],
    ) -> ChunkUpdate:
        """See `Adapter.chunk_update`."""
        scratch = (parameters, gradients, state)
        return MxnetChunkUpdate(
            self._master, region, chunk, scratch, lambda step: seed_everything(key(self._job.seed, "update", step))
        )

    def advance_schedule(self) -> None:
        """See `Adapter.advance_schedule`."""
        self._master.advance()

    def learning_rate(self) -> float:
        """See `Adapter.learning_rate`."""
        return self._master.rate
