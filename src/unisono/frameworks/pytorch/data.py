"""PyTorch data: how samples become a microbatch, and how tensors travel between processes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from unisono.frameworks.protocol import Array, DataFunctions
from unisono.frameworks.pytorch import determinism, numerics
from unisono.memory.spans import Views


def seed_everything(number: int) -> None:
    """Seed the default generators of torch, NumPy and Python (`torch.manual_seed` alone costs 0.1 ms)."""
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)


def _as_view(tensor: Tensor) -> Any:
    """See `DataFunctions.views`: a dense CPU tensor that is nothing but its values."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.is_conj() or tensor.is_neg() or tensor.__dict__ or not (tensor.numel() and tensor.is_leaf):
        return None
    held = tensor.detach()
    try:
        return held.numpy(), _from_view, (None, tensor.requires_grad)
    except TypeError:  # NumPy has no such dtype
        return held.view(_BITS[tensor.itemsize]).numpy(), _from_view, (tensor.dtype, tensor.requires_grad)


_BITS = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}


def _from_view(array: Any, dtype: torch.dtype | None, requires_grad: bool) -> Tensor:
    tensor = torch.from_numpy(array)
    return (tensor if dtype is None else tensor.view(dtype)).requires_grad_(requires_grad)


def _storage_as_view(storage: Any) -> Any:
    """See `DataFunctions.views`: what other tensors say that they consist of."""
    typed = isinstance(storage, torch.TypedStorage)
    untyped, dtype = (storage._untyped_storage, storage.dtype) if typed else (storage, None)
    if untyped.device.type != "cpu" or not untyped.nbytes():
        return None
    return torch.empty(0, dtype=torch.uint8).set_(untyped).numpy(), _from_bytes, (dtype,)


def _from_bytes(array: Any, dtype: torch.dtype | None) -> Any:
    untyped = torch.from_numpy(array).untyped_storage()
    if dtype is None:
        return untyped
    return torch.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]


class Data(DataFunctions):
    """See `DataFunctions`: samples stack as by `torch.utils.data.default_collate`."""

    TENSORS = (Tensor,)
    QUIET = (*DataFunctions.QUIET, Tensor, TensorDataset)

    @staticmethod
    def views() -> Views:
        """See `DataFunctions.views`."""
        return {
            Tensor: _as_view, torch.TypedStorage: _storage_as_view, torch.UntypedStorage: _storage_as_view,
        }  # fmt: skip

    seed_everything = staticmethod(seed_everything)
    pin = staticmethod(determinism.pin)
    settings, settle = staticmethod(numerics.settings), staticmethod(numerics.settle)

    @staticmethod
    def to_array(tensor: Tensor) -> tuple[Array, str] | None:
        """See `DataFunctions.to_array`: of a dense CPU tensor."""
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            return None
        wanted = " requires_grad" if tensor.requires_grad else ""
        tensor = tensor.detach().contiguous()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.uint16).numpy(), "bfloat16" + wanted
        return tensor.numpy(), wanted

    @staticmethod
    def from_array(array: Array, kind: str) -> Tensor:
        """See `DataFunctions.from_array`."""
        tensor = torch.from_numpy(array)
        if kind.startswith("bfloat16"):
            tensor = tensor.view(torch.bfloat16)
        copy = tensor.clone()  # private (user code may write into it) and 64-byte aligned
        return copy.requires_grad_(kind.endswith("requires_grad"))

    def seed_model(self, seed: int) -> None:
        """See `DataFunctions.seed_model`."""
        seed_everything(seed)
        torch.manual_seed(seed)

    def gather(self, data: Any, indices: Sequence[int]) -> Any:
        """See `DataFunctions.gather`."""
        if type(data) is TensorDataset and len(data.tensors) == 2:
            chosen = torch.as_tensor(np.asarray(indices))
            return tuple(tensor.index_select(0, chosen) for tensor in data.tensors)
        return None

    def stack(self, column: Sequence[Any]) -> Any:
        """See `DataFunctions.stack`."""
        return None if all(value is None for value in column) else default_collate(list(column))
