"""Tensors in an optimizer's state, as arrays: whatever shares memory goes on sharing it.

Tensors are kept by the memory that they lie in: those over one storage are one array, and each is a dtype, a shape,
strides and a place in it. A tensor over a parameter's memory is that place in the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unisono.frameworks.protocol import Array
from unisono.frameworks.pytorch.stages.travel import dtype_name
from unisono.memory.crossing import MOST_AXES
from unisono.values.text import excerpt

ALIGNMENT = 64
ARRAYS = {
    getattr(torch, name)
    for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
}


def _start(tensor: Tensor) -> int:
    """The first byte of its storage that a tensor lies in."""
    return int(tensor.storage_offset()) * tensor.element_size()


def _length(shape: Sequence[int], strides: Sequence[int]) -> int:
    """How many elements lie between a tensor's first and last, both of them among them."""
    return 0 if 0 in shape else 1 + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))


def _spanned(tensors: Sequence[Tensor], alignment: int) -> tuple[Tensor, int]:
    """The bytes that tensors over one storage lie in, and where these begin in it."""
    start = min(map(_start, tensors)) // alignment * alignment
    stop = max(_start(each) + _length(each.shape, each.stride()) * each.element_size() for each in tensors)
    storage = tensors[0].untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage, start, (stop - start,), (1,)), start


class StateTensors:
    """See `trees.arrays.Arrays`.

    Args:
        model: the job's; its parameters, buffers and modules are no state of an optimizer's.
    """

    def __init__(self, model: nn.Module) -> None:
        parts: dict[str, Any] = {f"module {name}": module for name, module in model.named_modules()}
        parts |= dict(model.named_buffers(remove_duplicate=False))
        parts |= dict(model.named_parameters())
        self._parts = parts
        self._parameters = dict(model.named_parameters())
        self._names = {id(part): name for name, part in parts.items()}
        self.gradients = range(0)
        """Addresses of memory that the next step's gradients will lie in."""

    def name(self, value: Any) -> str | None:
        """See `Arrays.name`."""
        return self._names.get(id(value))

    def named(self, name: str) -> Any:
        """See `Arrays.named`."""
        return self._parts[name]

    def holds(self, value: Any) -> bool:
        """See `Arrays.holds`."""
        return (
            type(value) in (Tensor, nn.Parameter)
            and value.layout is torch.strided
            and value.device.type == "cpu"
            and not (value.is_quantized or value.is_conj() or value.is_neg())
            and id(value) not in self._names
        )

    def mark(self, value: Any) -> Any:
        """See `Arrays.mark`; parts of the model are no state."""
        if id(value) in self._names:
            return id(value)
        return (id(value), value._version, value.data_ptr(), tuple(value.shape)) if self.holds(value) else None

    def pack(self, held: Sequence[tuple[str, Any]]) -> tuple[list[Any], dict[str, Array]]:
        """See `Arrays.pack`."""
        entries: list[Any] = [None] * len(held)
        arrays: dict[str, Array] = {}
        with torch.no_grad():
            by_storage: dict[int, list[int]] = {}
            for index, (_, tensor) in enumerate(held):
                by_storage.setdefault(tensor.untyped_storage().data_ptr() or id(tensor), []).append(index)
            places = {p.untyped_storage().data_ptr(): name for name, p in self._parameters.items() if p.numel()}
            for storage, members in by_storage.items():
                name, tensors = held[members[0]][0], [held[index][1] for index in members]
                packed = self._packed(storage, name, tensors, places.get(storage), arrays)
                for index, entry in zip(members, packed, strict=True):
                    entries[index] = entry
        return entries, arrays

    def _packed(
        self, storage: int, name: str, tensors: list[Tensor], parameter: str | None, arrays: dict[str, Array]
    ) -> list[Any]:
        """The entries of tensors over one storage, whose memory is added to the arrays unless it is a parameter's."""
        if parameter is not None:
            base = _start(self._parameters[parameter])
            return [["parameter", parameter, *_described(each, base)] for each in tensors]
        first = tensors[0]
        if storage in self.gradients:  # it will be written to
            memory, start = _spanned(tensors, 1)
            memory = memory.clone()
            for each in tensors:
                each.data = _over(memory, *_described(each, start)[:4])
        if len(tensors) == 1 and first.is_contiguous() and first.dtype in ARRAYS and first.dim() <= MOST_AXES:
            arrays[name] = first.detach().numpy()
            return [["memory", name, *_described(first, _start(first))]]
        memory, start = _spanned(tensors, ALIGNMENT)
        arrays[name] = memory.numpy()
        return [["memory", name, *_described(each, start)] for each in tensors]

    def unpack(self, entries: Sequence[Any], arrays: Mapping[str, Array]) -> list[Any]:
        """See `Arrays.unpack`."""
        memories: dict[str, Tensor] = {}
        found = []
        for entry in entries:
            kind, name, dtype, shape, strides, start, is_parameter, trained = entry
            if kind == "parameter":
                parameter = self._parameters[name]
                memory = torch.empty(0, dtype=torch.uint8).set_(parameter.untyped_storage())
                start += _start(parameter)
            else:
                if name not in memories:
                    raw = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
                    memories[name] = torch.empty(raw.size, dtype=torch.uint8)
                    memories[name].numpy()[:] = raw
                memory = memories[name]
            if not _lies_in(memory.nbytes, dtype, shape, strides, start):
                raise ValueError(f"{excerpt(entry)} is no place in {memory.nbytes} bytes")
            value = _over(memory, dtype, shape, strides, start)
            if is_parameter:
                value = nn.Parameter(value, trained)
            elif trained:
                value.requires_grad_()
            found.append(value)
        return found

    def renewed(self, existing: Any, value: Tensor) -> Any:
        """See `Arrays.renewed`."""
        if type(existing) is not type(value) or existing.dtype != value.dtype:
            return value
        existing.data = value.data
        return existing.requires_grad_(value.requires_grad)

    def plain(self, value: Any) -> Any:
        """See `Arrays.plain`."""
        if isinstance(value, torch.dtype | torch.device):
            return [type(value).__name__, str(value).removeprefix("torch.")]
        return ["Size", list(value)] if isinstance(value, torch.Size) else None

    def constant(self, plain: Any) -> Any:
        """See `Arrays.constant`."""
        kind, value = plain
        if kind == "dtype" and not isinstance(getattr(torch, value), torch.dtype):
            raise ValueError(f"{excerpt(value)} is no dtype")
        if kind == "dtype":
            return getattr(torch, value)
        return torch.device(value) if kind == "device" else torch.Size(value)

    def moments(self, value: Any) -> Any:
        """See `Arrays.moments`."""
        return value.get_state() if isinstance(value, torch.Generator) else None

    def resume(self, generator: Any, moments: Tensor) -> torch.Generator:
        """See `Arrays.resume`."""
        found = generator if isinstance(generator, torch.Generator) else torch.Generator()
        return found.set_state(moments)

    def groups(self, value: Any) -> Sequence[dict[str, Any]]:
        """See `Arrays.groups`."""
        groups = getattr(value, "param_groups", None)
        return groups if isinstance(groups, list) and hasattr(value, "step") else ()

    def passing(self, value: Any) -> frozenset[str]:
        """See `Arrays.passing`: what a learning-rate schedule leaves in an optimizer."""
        return _PASSING if isinstance(value, torch.optim.Optimizer) else frozenset()


_PASSING = frozenset({"step", "_opt_called", "_step_count"})


def _described(tensor: Tensor, base: int) -> list[Any]:
    """dtype, shape, strides, place in bytes from a base on; whether it is a Parameter, and whether it is trained."""
    return [
        dtype_name(tensor), list(tensor.shape), list(tensor.stride()), _start(tensor) - base,
        isinstance(tensor, nn.Parameter), tensor.requires_grad,
    ]  # fmt: skip


def _lies_in(size: int, dtype: str, shape: Sequence[int], strides: Sequence[int], start: int) -> bool:
    """Whether so many bytes of memory hold such a tensor."""
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or len(shape) != len(strides) or min(*shape, *strides, start, 0) < 0:
        return False
    length = _length(shape, strides)
    return start % kind.itemsize == 0 and (not length or start + length * kind.itemsize <= size)


def _over(memory: Tensor, dtype: str, shape: Sequence[int], strides: Sequence[int], start: int) -> Tensor:
    """A tensor over a part of some memory."""
    kind = getattr(torch, dtype)
    place = (memory.storage_offset() + start) // kind.itemsize
    return torch.empty(0, dtype=kind).set_(memory.untyped_storage(), place, tuple(shape), tuple(strides))
