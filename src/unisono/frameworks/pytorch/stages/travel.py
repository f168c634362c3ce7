"""Values on their way between stages: tensors as arrays, the rest as what JSON can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unisono.errors import JobError
from unisono.frameworks.protocol import Array


def dtype_name(tensor: Tensor) -> str:
    """NumPy's name of the dtype ("bfloat16" for the one that NumPy lacks)."""
    return str(tensor.dtype).removeprefix("torch.")


def as_array(tensor: Tensor) -> Array:
    """The tensor's memory as an array (bfloat16 as uint16)."""
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.resolve_neg().numpy()


def as_tensor(array: Array, dtype: torch.dtype) -> Tensor:
    """The array's memory as a tensor of this dtype."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor


def packed(value: Any, tensors: list[Tensor]) -> Any:
    """A nest in JSON's values; its tensors are added to the list.

    Raises:
        JobError: it holds what JSON can't.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        return ["tensor", dtype_name(value), value.requires_grad]
    if value is None or isinstance(value, bool | int | float | str):
        return ["plain", value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return ["dict", {key: packed(item, tensors) for key, item in value.items()}]
    if type(value) in (tuple, list):
        return [type(value).__name__, [packed(item, tensors) for item in value]]
    raise JobError(
        f"between stages pass tensors, numbers and texts, in tuples, lists and dicts; received "
        f"{type(value).__name__}. Pass its parts, or make it again in the next stage."
    )


def kinds_of(spec: Any) -> list[tuple[torch.dtype, bool]]:
    """Of each tensor in a packed nest its dtype and whether it needs a gradient."""
    kind, *rest = spec
    if kind == "tensor":
        return [(getattr(torch, rest[0]), rest[1])]
    if kind == "plain":
        return []
    items = rest[0].values() if kind == "dict" else rest[0]
    return [found for item in items for found in kinds_of(item)]


def unpacked(spec: Any, tensors: Iterator[Tensor]) -> Any:
    """The nest again, with the tensors in the order in which `packed` listed them."""
    kind, content, *_ = spec
    if kind == "tensor":
        return next(tensors)
    if kind == "plain":
        return content
    if kind == "dict":
        return {key: unpacked(item, tensors) for key, item in content.items()}
    items = [unpacked(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
