"""JAX data: how samples become a microbatch of NumPy arrays, and how XLA's threads are held."""

from __future__ import annotations

import os
import pickle
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import xla_bridge
from jax._src.array import ArrayImpl

from unisono.frameworks.jax.memory import aligned_copy
from unisono.frameworks.pairs import stacked

QUIET = (list, tuple, range, np.ndarray, ArrayImpl)
"""Data whose indexing draws no random number: nothing to seed before each sample."""

HELD = "NPROC"
"""XLA sizes its pools of threads by this environment variable when its CPU client starts."""


def seed_everything(number: int) -> None:
    """Seed the default generators of NumPy and Python; JAX has none: its keys are passed."""
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)


def seed_model(seed: int) -> None:
    """Seed what a model's first values may be drawn from, besides the keys that the job writes itself."""
    seed_everything(seed)


def pin(threads: int) -> None:
    """Hold XLA's pools to this number of threads; only before its CPU client starts.

    Computations run in the thread that asks for them, so that a result is there when the call returns.
    """
    if xla_bridge.backends_are_initialized():
        return
    os.environ[HELD] = str(threads)
    flag = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    others = [word for word in os.environ.get("XLA_FLAGS", "").split() if not word.startswith(flag.split("=")[0])]
    os.environ["XLA_FLAGS"] = " ".join([*others, flag])
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.config.jax_compilation_cache_dir is None:  # what the environment says is read at import only
        jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))


def check_held() -> None:
    """Warn where JAX had started before Unisono could hold its threads."""
    if "xla_cpu_multi_thread_eigen" not in os.environ.get("XLA_FLAGS", ""):
        warnings.warn(
            "JAX computed in this process before Unisono could hold its threads: bits may differ from other runs'. "
            "Train with workers (no debug), or start the process anew and compute nothing before.",
            stacklevel=2,
        )


def opened(data: Any) -> Any:
    """Training or evaluation data as a sequence: they already are."""
    return data


def draws_randomness(data: Any) -> bool:
    """Whether indexing may draw random numbers (anything but the plain containers may)."""
    return type(data) not in QUIET


def gather(data: Any, indices: Sequence[int]) -> Any:
    """All samples at once where that gives the bits of stacking them one by one: a pair of arrays is not indexed so."""
    return None


def collate(samples: Sequence[Any], indices: Sequence[int]) -> Any:
    """See `DataFunctions.collate`: leaf by leaf."""
    return stacked(samples, indices, _stack)


def _stack(samples: Sequence[Any]) -> tuple[Any, Any]:
    inputs, targets = (_column(column) for column in zip(*samples, strict=True))
    return inputs, targets


def _column(column: Sequence[Any]) -> Any:
    """One batch of all samples' inputs or targets: nested as they are, None where no sample has any."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *column)


TENSORS = (ArrayImpl,)
"""The framework's classes of arrays."""


def to_array(tensor: Any) -> tuple[Any, str]:
    """See `DataFunctions.to_array`."""
    return np.asarray(tensor), ""


def from_array(array: Any, kind: str) -> Any:
    """See `DataFunctions.from_array`: microbatches are made of NumPy's arrays."""
    return array


def _rebuild(buffer: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    return aligned_copy(np.frombuffer(buffer, dtype).reshape(shape))  # private: user code may keep it


def _reduce_array(value: Any) -> Any:
    """An array is sent as bytes that travel out of band; a JAX array arrives as NumPy's."""
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.__reduce__()
    array: Any = np.ascontiguousarray(value).reshape(np.shape(value))
    if array.dtype.hasobject:
        return array.__reduce_ex__(5)
    return _rebuild, (pickle.PickleBuffer(array.reshape(-1).view(np.uint8)), array.dtype, array.shape)


REDUCERS = {np.ndarray: _reduce_array, ArrayImpl: _reduce_array}
"""How arrays travel between processes."""

VIEWS: dict[type, Any] = {}
"""See `DataFunctions.VIEWS`: an array is never a view of a part of another."""

_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable",
             "jax_numpy_dtype_promotion")  # fmt: skip


def settings() -> dict[str, Any]:
    """See `DataFunctions.settings`."""
    return {name: getattr(jax.config, name) for name in _SETTINGS}


def settle(settings: Mapping[str, Any]) -> None:
    """See `DataFunctions.settle`."""
    for name, value in settings.items():
        jax.config.update(name, value)
