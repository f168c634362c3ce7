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
from unisono.frameworks.nests import mapped
from unisono.frameworks.protocol import Array, DataFunctions


def _rows(array: Any, indices: Any) -> Any:
    if isinstance(array, NDArray):
        return array.take(mxnet.nd.array(indices, dtype=np.int64))
    return as_framework(array[indices])


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
    make = mxnet.np.array if mxnet.util.is_np_array() else mxnet.nd.array
    return mapped(
        lambda leaf: make(leaf, dtype=leaf.dtype) if isinstance(leaf, np.ndarray | np.generic) else leaf, value
    )


class Data(DataFunctions):
    """See `DataFunctions`: samples stack as by `gluon.data.DataLoader`. An array is pickled with its own values alone,
    though it may be a view."""

    TENSORS = (NDArray, mxnet.np.ndarray)
    QUIET = (*DataFunctions.QUIET, NDArray, mxnet.np.ndarray)

    seed_everything = staticmethod(seed_everything)
    pin = staticmethod(engine.pin)

    @staticmethod
    def to_array(tensor: Any) -> tuple[Array, str]:
        """See `DataFunctions.to_array`."""
        return tensor.asnumpy(), "nd" if type(tensor) is NDArray else "np"

    @staticmethod
    def from_array(array: Array, kind: str) -> Any:
        """See `DataFunctions.from_array`."""
        return getattr(mxnet, kind).array(array, dtype=array.dtype)  # a private, aligned copy

    def settings(self) -> dict[str, Any]:
        """See `DataFunctions.settings`."""
        return {"shape": mxnet.util.is_np_shape(), "array": mxnet.util.is_np_array()}

    def settle(self, settings: Mapping[str, Any]) -> None:
        """See `DataFunctions.settle`."""
        mxnet.util.set_np(shape=settings["shape"], array=settings["array"])

    def draws_randomness(self, data: Any) -> bool:
        """See `DataFunctions.draws_randomness`: a random transform may, say."""
        if type(data) is ArrayDataset:
            return any(map(self.draws_randomness, data._data))
        if type(data) is SimpleDataset:
            return self.draws_randomness(data._data)
        return super().draws_randomness(data)

    def gather(self, data: Any, indices: Sequence[int]) -> Any:
        """See `DataFunctions.gather`."""
        if type(data) is not ArrayDataset or len(data._data) != 2:
            return None
        if not all(type(member) in (np.ndarray, NDArray) for member in data._data):
            return None
        return tuple(_rows(member, np.asarray(indices)) for member in data._data)

    def stack(self, column: Sequence[Any]) -> Any:
        """See `DataFunctions.stack`."""
        return _stack(column)
