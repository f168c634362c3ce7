"""JAX behind Keras: arrays over shared memory by DLPack, `jit`, `value_and_grad`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from unisono.frameworks.jax.threads import hold
from unisono.frameworks.keras.backends import Backend, Function


class Here(Backend):
    """See `Backend`. JAX's randomness has no hidden state."""

    NAME = "JAX"
    alias = staticmethod(jax.dlpack.from_dlpack)
    tensor = staticmethod(jax.numpy.array)
    compiled = staticmethod(jax.jit)

    def version(self) -> str:
        """See `Backend.version`."""
        return f"jax {jax.__version__}"

    def pin(self, threads: int) -> None:
        """See `Backend.pin`."""
        hold(threads)
        jax.config.update("jax_platforms", "cpu")

    def with_gradients(self, function: Function, variables: Sequence[Any] = ()) -> Function:
        """See `Backend.with_gradients`."""
        differentiated = jax.value_and_grad(function, has_aux=True)

        def traced(*arguments: Any) -> Any:
            (_, result), gradients = differentiated(*arguments)
            return result, gradients

        compiled: Function = jax.jit(traced)
        return compiled
