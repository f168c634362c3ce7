"""A JAX job in one process: values in shared memory, gradients of microbatches, evaluation."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax
import jax
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import load_file

from unisono.errors import UsageError
from unisono.frameworks import protocol
from unisono.frameworks.arrays import aligned_copy, leave
from unisono.frameworks.jax import transformations
from unisono.frameworks.jax.compute import Compute, key_words
from unisono.frameworks.jax.cutcompute import CutCompute
from unisono.frameworks.jax.data import Data, check_held
from unisono.frameworks.jax.forms import form_of
from unisono.frameworks.jax.measuring import Cutter
from unisono.frameworks.jax.memory import Shared, host
from unisono.frameworks.jax.optimizers import Optimizer
from unisono.frameworks.jax.pieces import chained, first_counts, pieces_of, refusal, whole
from unisono.frameworks.jax.stages import Process
from unisono.frameworks.jax.threads import HELD
from unisono.frameworks.jax.updates import TileUpdate, WholeUpdate
from unisono.frameworks.jobs import description, measured, refuse, refuse_tf32, sums
from unisono.frameworks.protocol import Array, ChunkUpdate, Measured, ModelDescription, Scratch, States
from unisono.job import Job


class Adapter(protocol.Adapter):
    """See `unisono.frameworks.protocol.Adapter`."""

    can_add = True

    def __init__(self, job: Job, model: Any, steps: int, example: Callable[[], Any]) -> None:
        refuse(
            job, ["schedule"], "a JAX job's schedule is part of its optax transformation",
            "Write optimizer=lambda steps: optax.adam(optax.cosine_decay_schedule(1e-3, steps))",
        )  # fmt: skip
        refuse(
            job, ["split_points"], "a JAX model names no places where its forward pass could be cut",
            "Write the forward pass as Job(stages=[…])",
        )  # fmt: skip
        refuse_tf32(job, "JAX")
        if not callable(job.loss):
            raise UsageError(f"job.loss of a JAX job must be a function; received {job.loss!r}.")
        model = chained(model)
        pieces, self._refusal = pieces_of(job, model), refusal(job, model)
        trained = whole(job, model)
        self._job, self._example = job, example
        self._form = form_of(trained, model, example)
        transformation = transformations.prepare(job.optimizer, steps)
        self._optimizer = Optimizer(transformation, self._form.parameters)
        self._rate = transformations.learning_rate(transformation)
        self._compute = (
            CutCompute(trained, self._form, pieces, first_counts(model)) if pieces else Compute(trained, self._form)
        )
        self._parameters: list[Any] = jax.tree.leaves(self._form.parameters)
        if pieces:  # bound to a device, as what crosses is: JAX compiles once more for arrays that are not
            self._parameters = jax.device_put(self._parameters, jax.local_devices()[0])
        self._live = [Shared(aligned_copy(leaf)) for leaf in jax.tree.leaves(self._form.state)]
        self._shared: list[Shared] = []
        self._key = key_words(0)
        self._step = -1  # whose parameters were read last

    @staticmethod
    def restored(job: Job, model: Any, path: Path, example: Callable[[], Any]) -> Any:
        """See `Adapter.restored`: the nnx module, (linen module, variables), or the variables."""
        model = chained(model)
        return form_of(whole(job, model), model, example).restored(load_file(path))

    @staticmethod
    def answering(model: Any) -> contextlib.AbstractContextManager[Any]:
        """See `Adapter.answering`."""
        if isinstance(model, nnx.Module):
            model.eval()
        return contextlib.nullcontext()

    # -- description ---------------------------------------------------------------------------------------

    def describe(self) -> ModelDescription:
        """See `Adapter.describe`."""
        form, optimizer = self._form, self._optimizer
        parts = transformations.described(optimizer.transformation)
        parameters = list(zip(form.names, self._parameters, strict=True))
        names = "+".join(name for name, _ in parts)
        return description(
            self._job, parameters, [0] * len(parameters),
            list(zip(form.state_names, self.live_buffers(), strict=True)), lambda leaf: str(leaf.dtype),
            [(optimizer.kind, optimizer.spec, {"class": names, "groups": [settings for _, settings in parts]})],
            {
                "framework": f"jax {jax.__version__}, flax {flax.__version__}, optax {optax.__version__}",
                "xla": jax.devices()[0].client.platform_version.replace("\n", " "),
                "cpu_capability": _cpu_capability(),
                "device": jax.default_backend(),
                "xla_threads": os.environ.get(HELD, "not held"),
                "optimizer": f"{names}:{optimizer.kind}",
            },
        )  # fmt: skip

    # -- binding -------------------------------------------------------------------------------------------

    def initial(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.initial`."""
        for leaf, array in zip(self._parameters, parameters, strict=True):
            array[...] = host(leaf)

    def initial_state(self, state: States, scalars: Mapping[int, Array]) -> None:
        """See `Adapter.initial_state`."""
        self._optimizer.initial(self._form.parameters, state, scalars)

    def bind(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.bind`."""
        check_held()
        self._shared = [Shared(array) for array in parameters]
        self._parameters = [shared.read() for shared in self._shared]
        self._form.parameters = None  # the first values are in shared memory now

    def refresh(self, step: int) -> None:
        """See `Adapter.refresh`: what JAX can't compute on in place is copied once a step."""
        if step != self._step:
            self._parameters = [shared.read() for shared in self._shared]
            self._step = step

    def compile(self) -> None:
        """See `Adapter.compile`."""
        self.rehearse()

    def rehearse(self) -> None:
        """See `Adapter.rehearse`: compile the gradient of a full microbatch, and its evaluation."""
        with contextlib.suppress(Exception):
            shared = self._shared or [Shared(aligned_copy(host(leaf))) for leaf in self._parameters]
            parameters = [each.read() for each in shared]  # what is compiled depends on whose memory it is, too
            known = (parameters, self._state(), key_words(0), self._example(), 1)
            self._compute.gradient(*known)
            if self._job.evaluation is not None:
                self._compute.evaluate(*known, bool(self._job.metric_objects))

    def seed(self, key: int) -> None:
        """See `Adapter.seed`."""
        self._key = key_words(key)
        Data.seed_everything(key)

    def live_buffers(self) -> list[Array]:
        """See `Adapter.live_buffers`."""
        return [shared.array for shared in self._live]

    def _state(self) -> list[Any]:
        return [shared.read() for shared in self._live]

    # -- microbatches --------------------------------------------------------------------------------------

    def gradient(self, batch: Any, samples: int, into: Mapping[int, Array], used: Array, add: bool = False) -> Measured:
        """See `Adapter.gradient`; as in JAX itself, a parameter that was not used has a gradient of zeros."""
        (total, (weight, metrics, state)), gradients = self._compute.gradient(
            self._parameters, self._state(), self._key, batch, samples
        )
        result = measured(float(total), float(weight), metrics)
        for number, gradient in enumerate(gradients):
            leave(host(gradient), into[number], add)
        used[:] = 1
        for shared, value in zip(self._live, state, strict=True):
            np.copyto(shared.array, host(value))
        return result

    @cached_property
    def cutter(self) -> Cutter:
        """See `Adapter.cutter`."""
        compute = self._compute
        if not isinstance(compute, CutCompute):
            raise self._refusal
        known = lambda: compute.known(self._parameters, self._state(), self._key)  # noqa: E731
        return Cutter(Process(compute, self._example, known, self._live))

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> Measured:
        """See `Adapter.evaluate`."""
        total, weight, metrics, outputs = self._compute.evaluate(
            self._parameters, self._state(), self._key, batch, samples, keep_outputs
        )
        kept = (jax.tree.map(host, outputs), jax.tree.map(host, batch[1])) if keep_outputs else None
        return Measured(float(total), float(weight), sums(metrics), kept)

    def metric_objects(self, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Adapter.metric_objects`: those of flax.nnx take their values by keyword."""
        return {name: _fed(metric) for name, metric in metrics.items()}

    # -- update --------------------------------------------------------------------------------------------

    def chunk_update(self, scratch: Scratch) -> ChunkUpdate:
        """See `Adapter.chunk_update`."""
        update = TileUpdate if scratch.region.kind == "elementwise" else WholeUpdate
        return update(self._optimizer, scratch)

    def learning_rate(self) -> float | None:
        """See `Adapter.learning_rate`."""
        return None if self._rate is None else self._rate(self.steps_done)


def _fed(metric: Any) -> Any:
    """A metric of flax.nnx, given pairs under the keywords that flax's metrics know; any other as it is."""
    if not isinstance(metric, nnx.metrics.Metric):
        return metric
    return SimpleNamespace(
        update=lambda outputs, targets: metric.update(logits=outputs, labels=targets, values=outputs),
        compute=metric.compute,
        reset=metric.reset,
    )


def _cpu_capability() -> str:
    """The vector instructions that NumPy found here: XLA compiles for them."""
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return " ".join([*simd.get("baseline", []), *simd.get("found", [])])
