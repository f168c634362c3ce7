"""JAX's piece of the plain loop: a flax.nnx module with one stream of random numbers, an optax transformation."""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from plain_loop import Array, Part
from unisono import Job

TOLERANCE = 1e-5
"""Compiled apart from Unisono, a function may get other bits."""


class Loop:
    """See `plain_loop.Model`."""

    def __init__(self, job: Job, steps: int) -> None:
        self.job = job
        self.graph, self.parameters, self.streams, self.others = nnx.split(job.model(), nnx.Param, nnx.RngState, ...)
        self.optimizer = job.optimizer(steps) if inspect.isfunction(job.optimizer) else job.optimizer
        self.optimizer_state = self.optimizer.init(self.parameters)
        self._gradient = jax.jit(jax.value_and_grad(self._trained, has_aux=True))
        self._evaluation = jax.jit(self._evaluated)
        self._update = jax.jit(self._updated)

    def seed(self, number: int) -> None:
        """JAX has no default generator: the number's two halves are the key of what is computed next."""
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)
        self.key = np.array([number >> 32, number & 0xFFFFFFFF], np.uint32)

    def collate(self, samples: Sequence[Any]) -> Any:
        return tuple(np.stack([np.asarray(value) for value in column]) for column in zip(*samples, strict=True))

    @property
    def buffers(self) -> list[Array]:
        return [np.array(leaf) for leaf in jax.tree.leaves(self.others)]

    @buffers.setter
    def buffers(self, values: Sequence[Array]) -> None:
        self.others = jax.tree.unflatten(jax.tree.structure(self.others), list(values))

    def _run(self, parameters: Any, others: Any, key: Any, inputs: Any, training: bool) -> tuple[Any, Any]:
        streams, others = jax.tree.map(lambda leaf: leaf, (self.streams, others))  # variables of this trace
        model = nnx.merge(self.graph, parameters, streams, others)
        (model.train if training else model.eval)()
        key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), 0)  # 0: the module's only stream
        nnx.reseed(model, policy="match_shape", default=key, dropout=key)
        outputs = model(inputs)
        return outputs, nnx.split(model, nnx.Param, nnx.RngState, ...)[3]

    def _measured(self, outputs: Any, targets: Any) -> Any:
        loss = self.job.loss(outputs, targets)
        total, weight = loss if isinstance(loss, tuple) else (loss.mean() * len(targets), len(targets))
        return total, (weight, [metric(outputs, targets) for metric in self.job.metrics.values()])

    def _trained(self, parameters: Any, others: Any, key: Any, inputs: Any, targets: Any) -> Any:
        outputs, changed = self._run(parameters, others, key, inputs, True)
        total, measured = self._measured(outputs, targets)
        return total, (measured, changed)

    def _evaluated(self, parameters: Any, others: Any, key: Any, inputs: Any, targets: Any) -> Any:
        return self._measured(self._run(parameters, others, key, inputs, False)[0], targets)

    @staticmethod
    def _part(total: Any, measured: Any) -> Part:
        weight, pairs = measured
        return Part(float(total), float(weight), [(float(a), float(b)) for a, b in pairs])

    def gradient(self, batch: Any, samples: int) -> Part:
        (total, (measured, changed)), gradients = self._gradient(self.parameters, self.others, self.key, *batch)
        part = self._part(total, measured)
        part.gradients = [np.array(leaf) for leaf in jax.tree.leaves(gradients)]
        part.buffers = [np.array(leaf) for leaf in jax.tree.leaves(changed)]
        return part

    def evaluate(self, batch: Any, samples: int) -> Part:
        return self._part(*self._evaluation(self.parameters, self.others, self.key, *batch))

    rate = None
    """It is inside of the transformation, and shows in the parameters."""

    def _updated(self, gradients: Any, state: Any, parameters: Any) -> Any:
        updates, state = self.optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state

    def update(self, gradients: Sequence[Array | None]) -> None:
        tree = jax.tree.unflatten(jax.tree.structure(self.parameters), list(gradients))
        self.parameters, self.optimizer_state = self._update(tree, self.optimizer_state, self.parameters)

    def saved(self) -> Mapping[str, Array]:
        leaves = [*nnx.to_flat_state(self.parameters), *nnx.to_flat_state(self.others)]
        return {".".join(map(str, path)): np.array(leaf[...]) for path, leaf in leaves}

    def state(self) -> Mapping[str, Array]:
        """Of the first transformation of the chain: the others have none of their own here."""
        return {
            f"{'.'.join(map(str, path))}/0.{field}": np.array(leaf[...])
            for field, tree in self.optimizer_state[0]._asdict().items()
            if isinstance(tree, nnx.State)
            for path, leaf in nnx.to_flat_state(tree)
        }
