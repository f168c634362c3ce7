"""The compiled functions of a job: the gradient of one microbatch, and its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unisono.errors import JobError
from unisono.frameworks.jax.forms import Form, Function
from unisono.frameworks.jax.purity import explained, no_side_effects
from unisono.frameworks.protocol import Array
from unisono.job import Job


def key_words(number: int) -> Array:
    """A number of 63 bits as the two words of a threefry key."""
    return np.array([number >> 32, number & 0xFFFFFFFF], np.uint32)


class Compute:
    """What JAX compiles once per shape: parameters and state go in as lists of arrays."""

    def __init__(self, job: Job, form: Form) -> None:
        self._job, self._form = job, form
        self._trees = jax.tree.structure(form.parameters), jax.tree.structure(form.state)
        self._functions = (job.forward, job.loss, job.predict, *job.metric_functions.values())
        self._gradient = jax.jit(jax.value_and_grad(self._total, has_aux=True))
        self._evaluation = jax.jit(self._evaluated, static_argnums=5)

    def gradient(self, parameters: list[Any], state: list[Any], key: Array, batch: Any, samples: int) -> Any:
        """((Σ loss, (weight, metrics, new state leaves)), gradients of Σ loss)."""
        return self._ready(self._gradient, parameters, state, key, batch, np.float32(samples))

    def evaluate(
        self, parameters: list[Any], state: list[Any], key: Array, batch: Any, samples: int, keep_outputs: bool
    ) -> Any:
        """(Σ loss, weight, metrics, what metrics saw or None)."""
        return self._ready(self._evaluation, parameters, state, key, batch, np.float32(samples), keep_outputs)

    @staticmethod
    def _ready(function: Any, *arguments: Any) -> Any:
        with explained():
            return jax.block_until_ready(function(*arguments))

    def _total(self, parameters: list[Any], state: list[Any], key: Any, batch: Any, samples: Any) -> Any:
        inputs, targets = batch
        with no_side_effects(self._functions):
            outputs, changed = self._call(self._job.forward, parameters, state, key, inputs, True)
            total, weight = self._loss(outputs, targets, samples)
            metrics = self._metric_pairs(self._job.training_metrics, jax.lax.stop_gradient(outputs), targets)
        return total, (weight, metrics, self._like(state, changed))

    def _evaluated(
        self, parameters: list[Any], state: list[Any], key: Any, batch: Any, samples: Any, keep_outputs: bool
    ) -> Any:
        inputs, targets = batch
        with no_side_effects(self._functions):
            outputs, _ = self._call(self._job.forward, parameters, state, key, inputs, False)
            total, weight = self._loss(outputs, targets, samples)
            if self._job.predict is not None:
                outputs, _ = self._call(self._job.predict, parameters, state, key, inputs, False)
            metrics = self._metric_pairs(self._job.metric_functions, outputs, targets)
        return total, weight, metrics, outputs if keep_outputs else None

    def _call(
        self, function: Function | None, parameters: list[Any], state: list[Any], key: Any, inputs: Any, training: bool
    ) -> tuple[Any, Any]:
        key = jax.random.wrap_key_data(key, impl="threefry2x32")
        low = self._job.precision == "bfloat16"
        if low:
            parameters, inputs = cast(parameters, jnp.bfloat16), cast(inputs, jnp.bfloat16)
        trees = self._trees
        outputs, changed = self._form.call(
            function, trees[0].unflatten(parameters), trees[1].unflatten(state), inputs, key, training
        )
        return cast(outputs, jnp.float32, jnp.bfloat16) if low else outputs, changed

    def _like(self, state: list[Any], changed: Any) -> list[Any]:
        """The new state's leaves, in the old one's dtypes."""
        if jax.tree.structure(changed) != self._trees[1]:
            raise JobError(
                f"the new state must have the old one's structure, {self._trees[1]}; received "
                f"{jax.tree.structure(changed)}. Return every collection that changed, with the same leaves."
            )
        leaves = jax.tree.leaves(changed)
        return [jnp.asarray(new, old.dtype).reshape(old.shape) for new, old in zip(leaves, state, strict=True)]

    def _loss(self, outputs: Any, targets: Any, samples: Any) -> tuple[Any, Any]:
        result = self._job.loss(outputs, targets)
        if isinstance(result, tuple) and len(result) == 2:
            return jnp.asarray(result[0]), jnp.asarray(result[1])
        if not hasattr(result, "ndim") or result.ndim > 1:
            shape = tuple(result.shape) if hasattr(result, "shape") else type(result).__name__
            raise JobError(
                "job.loss must return one number (the mean over samples), one number per sample, or (total, weight); "
                f"received {shape}. Take the mean, or return (losses.sum(), losses.size)."
            )
        return jnp.mean(result) * samples, samples

    def _metric_pairs(self, functions: Mapping[str, Any], outputs: Any, targets: Any) -> list[tuple[Any, Any]]:
        return [metric(outputs, targets) for metric in functions.values()]


def cast(tree: Any, to: Any, only: Any = jnp.floating) -> Any:
    """Floating-point leaves (or those of one dtype) in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(to) if jnp.issubdtype(leaf.dtype, only) else leaf, tree)
