"""JAX data: how samples become a microbatch of NumPy arrays, and how XLA's threads are held."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax._src.array import ArrayImpl  # public is only jax.Array, which is abstract: pickle looks a class up as it is

from unisono.frameworks.arrays import aligned_copy
from unisono.frameworks.jax import threads as xla
from unisono.frameworks.jax.memory import is_key
from unisono.frameworks.protocol import Array, DataFunctions
from unisono.memory.packing import Reducers


def check_held() -> None:
    """Warn where JAX had started before Unisono could hold its threads."""
    if xla.FLAG not in os.environ.get("XLA_FLAGS", ""):
        warnings.warn(
            "JAX computed in this process before Unisono could hold its threads: bits may differ from other runs'. "
            "Train with workers (no debug), or start the process anew and compute nothing before.",
            stacklevel=2,
        )


def _rebuild(buffer: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    return aligned_copy(np.frombuffer(buffer, dtype).reshape(shape))  # private: user code may keep it


def _reduce_array(value: Any) -> Any:
    """An array is sent as bytes that travel out of band; a JAX array arrives as NumPy's."""
    if isinstance(value, jax.Array) and is_key(value):
        return value.__reduce__()
    array: Any = np.ascontiguousarray(value).reshape(np.shape(value))
    if array.dtype.hasobject:
        return array.__reduce_ex__(5)
    return _rebuild, (pickle.PickleBuffer(array.reshape(-1).view(np.uint8)), array.dtype, array.shape)


_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable",
             "jax_numpy_dtype_promotion")  # fmt: skip


class Data(DataFunctions):
    """See `DataFunctions`: samples stack leaf by leaf, and microbatches are made of NumPy's arrays. JAX has no default
    generator: its keys are passed."""

    TENSORS = (ArrayImpl,)
    QUIET = (*DataFunctions.QUIET, ArrayImpl)

    @staticmethod
    def to_array(tensor: Any) -> tuple[Array, str] | None:
        """See `DataFunctions.to_array`."""
        return None if is_key(tensor) else (np.asarray(tensor), "")

    def reducers(self) -> Reducers:
        """See `DataFunctions.reducers`: JAX may compute on NumPy's arrays where they lie."""
        return {np.ndarray: _reduce_array, ArrayImpl: _reduce_array}

    def settings(self) -> dict[str, Any]:
        """See `DataFunctions.settings`."""
        return {name: getattr(jax.config, name) for name in _SETTINGS}

    def settle(self, settings: Mapping[str, Any]) -> None:
        """See `DataFunctions.settle`."""
        for name, value in settings.items():
            jax.config.update(name, value)

    def pin(self, threads: int) -> None:
        """Hold XLA's pools to this number of threads; only before its CPU client starts.

        Computations run in the thread that asks for them, so that a result is there when the call returns.
        """
        if not xla.started():
            xla.hold(threads)
            jax.config.update("jax_cpu_enable_async_dispatch", False)

    def stack(self, column: Sequence[Any]) -> Any:
        """See `DataFunctions.stack`: nested as the samples' are."""
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *column)
