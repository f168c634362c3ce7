"""MXNet data: how samples become a microbatch, and how arrays travel between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mxnet
import numpy as np
from mxnet.gluon.data import ArrayDataset, SimpleDataset
from mxnet.gluon.data.dataloader import default_batchify_fn
from mxnet.ndarray import NDArray

from unisono.frameworks.mxnet import engine
from unisono.frameworks.mxnet.seeding import seed_everything
from unisono.frameworks.pairs import stacked

QUIET = (list, tuple, range, np.ndarray, NDArray, mxnet.np.ndarray)
"""Data whose indexing draws no random number: nothing to seed before each sample."""


def seed_model(seed: int) -> None:
    """Seed what a model's first values may be drawn from."""
    seed_everything(seed)


def pin(threads: int) -> None:
    """Fix how this process computes; see `engine`."""
    engine.pin(threads)


def opened(data: Any) -> Any:
    """Training or evaluation data as a sequence: MXNet's datasets already are."""
    return data


def draws_randomness(data: Any) -> bool:
    """Whether indexing may draw random numbers (anything but the plain containers may: a random transform, say)."""
    if type(data) is ArrayDataset:
        return any(draws_randomness(member) for member in data._data)
    if type(data) is SimpleDataset:
        return draws_randomness(data._data)
    return type(data) not in QUIET


def gather(data: Any, indices: Sequence[int]) -> Any:
    """All samples at once where that gives the bits of stacking them one by one, else None."""
    if type(data) is not ArrayDataset or len(data._data) != 2:
        return None
    if not all(type(member) in (np.ndarray, NDArray) for member in data._data):
        return None
    return tuple(_rows(member, np.asarray(indices)) for member in data._data)


def _rows(array: Any, indices: Any) -> Any:
    if isinstance(array, NDArray):
        return array.take(mxnet.nd.array(indices, dtype=np.int64))
    return as_framework(array[indices])


def collate(samples: Sequence[Any], indices: Sequence[int]) -> Any:
    """See `DataFunctions.collate`: as `gluon.data.DataLoader` stacks."""
    return stacked([tuple(sample) if isinstance(sample, list) else sample for sample in samples], indices, _stack)


def _stack(values: Sequence[Any]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(_stack(members) for members in zip(*values, strict=True))
    if isinstance(values[0], Mapping):
        return {name: _stack([value[name] for value in values]) for name in values[0]}
    if all(value is None for value in values):
        return None
    if not isinstance(values[0], NDArray) and len({np.shape(value) for value in values}) > 1:
        raise ValueError(f"the shapes are {', '.join(sorted({str(np.shape(value)) for value in values}))}.")
    return default_batchify_fn(list(values))


def as_framework(value: Any) -> Any:
    """NumPy arrays in a structure as arrays of MXNet (of `mxnet.np` after `npx.set_np()`), with their dtype."""
    if isinstance(value, np.ndarray | np.generic):
        make = mxnet.np.array if mxnet.util.is_np_array() else mxnet.nd.array
        return make(value, dtype=value.dtype)
    if isinstance(value, tuple | list):
        return type(value)(as_framework(member) for member in value)
    if isinstance(value, Mapping):
        return {name: as_framework(member) for name, member in value.items()}
    return value


TENSORS = (NDArray, mxnet.np.ndarray)
"""The framework's classes of arrays."""


def to_array(tensor: Any) -> tuple[Any, str]:
    """See `DataFunctions.to_array`."""
    return tensor.asnumpy(), "nd" if type(tensor) is NDArray else "np"


def from_array(array: Any, kind: str) -> Any:
    """See `DataFunctions.from_array`."""
    return getattr(mxnet, kind).array(array, dtype=array.dtype)  # a private, aligned copy


def _reduce(value: Any) -> Any:
    """An array is sent as one of NumPy whose bytes travel out of band."""
    return from_array, to_array(value)


REDUCERS = dict.fromkeys(TENSORS, _reduce)
"""How arrays travel between processes."""

VIEWS: dict[type, Any] = {}
"""See `DataFunctions.VIEWS`: an array is pickled with its own values alone, though it is a view."""


def settings() -> dict[str, Any]:
    """See `DataFunctions.settings`."""
    return {"shape": mxnet.util.is_np_shape(), "array": mxnet.util.is_np_array()}


def settle(settings: Mapping[str, Any]) -> None:
    """See `DataFunctions.settle`."""
    mxnet.util.set_np(shape=settings["shape"], array=settings["array"])
