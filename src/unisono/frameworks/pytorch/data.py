"""PyTorch data: how samples become a microbatch, and how tensors travel between processes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset, default_collate

from unisono.frameworks.pairs import stacked
from unisono.frameworks.pytorch import determinism

QUIET = (list, tuple, range, np.ndarray, torch.Tensor, TensorDataset)
"""Data whose indexing draws no random number: nothing to seed before each sample."""


def seed_everything(number: int) -> None:
    """Seed the default generators of torch, NumPy and Python (`torch.manual_seed` alone costs 0.1 ms)."""
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)


def seed_model(seed: int) -> None:
    """Seed what a model's first values may be drawn from."""
    seed_everything(seed)
    torch.manual_seed(seed)


def opened(data: Any) -> Any:
    """Training or evaluation data as a sequence: PyTorch's already are."""
    return data


def pin(threads: int) -> None:
    """Fix the number of threads of this process."""
    determinism.pin(threads)


def draws_randomness(data: Any) -> bool:
    """Whether indexing may draw random numbers (anything but the plain containers may)."""
    return type(data) not in QUIET


def gather(data: Any, indices: Sequence[int]) -> Any:
    """All samples at once where that gives the bits of stacking them one by one, else None."""
    if type(data) is TensorDataset and len(data.tensors) == 2:
        chosen = torch.as_tensor(np.asarray(indices))
        return tuple(tensor.index_select(0, chosen) for tensor in data.tensors)
    return None


def collate(samples: Sequence[Any], indices: Sequence[int]) -> Any:
    """See `DataFunctions.collate`: as `torch.utils.data.default_collate` stacks."""
    return stacked(samples, indices, _stack)


def _stack(samples: Sequence[Any]) -> tuple[Any, Any]:
    inputs, targets = (_column(column) for column in zip(*samples, strict=True))
    return inputs, targets


def _column(column: Sequence[Any]) -> Any:
    """One batch of all samples' inputs or targets; None where no sample has any."""
    return None if all(value is None for value in column) else default_collate(list(column))


TENSORS = (torch.Tensor,)
"""The framework's classes of arrays."""


def to_array(tensor: torch.Tensor) -> tuple[Any, str]:
    """See `DataFunctions.to_array`: of a dense CPU tensor."""
    wanted = " requires_grad" if tensor.requires_grad else ""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy(), "bfloat16" + wanted
    return tensor.numpy(), wanted


def from_array(array: Any, kind: str) -> torch.Tensor:
    """See `DataFunctions.from_array`."""
    tensor = torch.from_numpy(array)
    if kind.startswith("bfloat16"):
        tensor = tensor.view(torch.bfloat16)
    copy = tensor.clone()  # private (user code may write into it) and 64-byte aligned
    return copy.requires_grad_(kind.endswith("requires_grad"))


def _reduce_tensor(value: torch.Tensor) -> Any:
    """A dense CPU tensor is sent as an array whose bytes travel out of band."""
    if value.layout != torch.strided or value.device.type != "cpu":
        return value.__reduce_ex__(5)  # type: ignore[no-untyped-call]
    return from_array, to_array(value)


REDUCERS = {torch.Tensor: _reduce_tensor}
"""How tensors travel between processes."""


def _as_view(tensor: torch.Tensor) -> Any:
    """See `DataFunctions.VIEWS`: a dense CPU tensor that is nothing but its values."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.is_conj() or tensor.is_neg() or tensor.__dict__ or not (tensor.numel() and tensor.is_leaf):
        return None
    bits = _BITS.get(tensor.itemsize) if tensor.dtype not in _NUMPY else None
    held = tensor.detach() if bits is None else tensor.detach().view(bits)
    return held.numpy(), _from_view, (None if bits is None else tensor.dtype, tensor.requires_grad)


_NUMPY = frozenset(
    {torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32,
     torch.int64, torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128}
)  # fmt: skip
_BITS = {1: torch.uint8, 2: torch.uint16}


def _from_view(array: Any, dtype: torch.dtype | None, requires_grad: bool) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return (tensor if dtype is None else tensor.view(dtype)).requires_grad_(requires_grad)


def _storage_as_view(storage: Any) -> Any:
    """See `DataFunctions.VIEWS`: what other tensors say that they consist of."""
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


VIEWS = {torch.Tensor: _as_view, torch.TypedStorage: _storage_as_view, torch.UntypedStorage: _storage_as_view}
"""How tensors of a job travel, of which many may be views of one storage."""


def settings() -> dict[str, Any]:
    """See `DataFunctions.settings`."""
    return {
        "dtype": torch.get_default_dtype(),
        "matmul": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def settle(settings: Mapping[str, Any]) -> None:
    """See `DataFunctions.settle`."""
    torch.set_default_dtype(settings["dtype"])
    torch.set_float32_matmul_precision(settings["matmul"])
    torch.backends.mkldnn.enabled = settings["mkldnn"]
    torch.use_deterministic_algorithms(settings["deterministic"])
