"""Arrays of shared memory as JAX sees them, and the names of a pytree's leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unisono.frameworks.arrays import ALIGNMENT
from unisono.frameworks.protocol import Array


class Shared:
    """An array that others write to between computations.

    On the CPU JAX computes on this very memory; `alias` is None where it can't (an accelerator, bfloat16 and bool,
    an address that is not a multiple of 64), and `read` copies.
    """

    def __init__(self, array: Array) -> None:
        self.array = array
        self.alias = _alias(array)

    def read(self) -> Any:
        """What it holds now, for JAX: valid until somebody writes again."""
        return jnp.array(self.array) if self.alias is None else self.alias


def _alias(array: Array) -> Any:
    if jax.default_backend() != "cpu" or not array.size or array.ctypes.data % ALIGNMENT:
        return None
    try:
        alias = jax.dlpack.from_dlpack(array)
    except BufferError:  # NumPy exports no bfloat16 and no bool
        return None
    return alias if alias.unsafe_buffer_pointer() == array.ctypes.data else None


def is_key(value: Any) -> bool:
    """Whether it is an array of typed random keys, or stands for one."""
    return bool(jnp.issubdtype(value.dtype, jax.dtypes.prng_key))


def untyped(value: Any) -> Any:
    """A typed key's numbers; anything else as it is."""
    return jax.random.key_data(value) if is_key(value) else value


def typed(value: Any, kind: Any) -> Any:
    """Its opposite, for a leaf of this kind."""
    if not is_key(kind):
        return value
    return jax.random.wrap_key_data(value, impl=jax.random.key_impl(jnp.empty((), kind.dtype)))


def host(values: Any) -> Array:
    """An array of JAX's as NumPy's; on the CPU without a copy."""
    return np.asarray(values)


def path_words(path: Sequence[Any]) -> tuple[str, ...]:
    """The words of a pytree path: keys, indices and attributes.

    >>> path_words(jax.tree_util.tree_leaves_with_path({"a": [0.0]})[0][0])
    ('a', '0')
    """
    return tuple(
        str(next(getattr(key, field) for field in ("key", "idx", "name") if hasattr(key, field))) for key in path
    )
