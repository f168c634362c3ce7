"""JAX behind Keras: arrays over shared memory by DLPack, `jit`, `value_and_grad`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from unisono.frameworks.jax.threads import hold
from unisono.frameworks.protocol import Array

NAME = "JAX"
TENSORS: tuple[type, ...] = ()  # they travel as NumPy arrays by themselves
NEUTRAL: tuple[str, ...] = ()


def version() -> str:
    """See `Backend.version`."""
    return f"jax {jax.__version__}"


def pin(threads: int) -> None:
    """See `Backend.pin`."""
    hold(threads)
    jax.config.update("jax_platforms", "cpu")


def warn_of_threads() -> None:
    """Nothing to compare with."""


def seed(number: int) -> None:
    """See `Backend.seed`: JAX's randomness has no hidden state."""


def seed_eager(number: int) -> None:
    """See `Backend.seed_eager`."""


def eagerly(function: Callable[[], Any]) -> Any:
    """See `Backend.eagerly`."""
    return function()


def alias(array: Array) -> Any:
    """See `Backend.alias`."""
    return jax.dlpack.from_dlpack(array)


def tensor(array: Array) -> Any:
    """See `Backend.tensor`."""
    return jax.numpy.array(array)


def array(tensor: Any) -> Array:
    """See `Backend.array`."""
    return np.asarray(tensor)


def attach(variable: Any, tensor: Any) -> None:
    """See `Backend.attach`."""
    variable.assign(tensor)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """See `Backend.compiled`."""
    compiled_: Callable[..., Any] = jax.jit(function)
    return compiled_


def with_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    """See `Backend.with_gradients`."""
    differentiated = jax.value_and_grad(function, has_aux=True)

    def traced(*arguments: Any) -> Any:
        (_, result), gradients = differentiated(*arguments)
        return result, gradients

    compiled_: Callable[..., Any] = jax.jit(traced)
    return compiled_
