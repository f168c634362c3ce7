"""Shared memory in which tensors lie: every process that has the file sees the same bytes."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from unisono.errors import JobError
from unisono.memory.segment import ALIGNMENT, PAGE, aligned


class Ref(NamedTuple):
    """Where a tensor lies.

    Attributes:
        space: its space's number.
        offset: bytes from that one's start.
        dtype, shape, stride: as PyTorch's.
        grad: whether it wants a gradient.
    """

    space: int
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    grad: bool


NAME = "unisono-call"
"""Of each in /proc."""


class Space:
    """A piece of shared memory.

    Args:
        number: by which processes that share it know it.
        file: its file.
        size: bytes.
    """

    def __init__(self, number: int, file: int, size: int) -> None:
        self.number, self.file, self.size = number, file, size
        self._map = mmap.mmap(file, size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._used = 0

    @classmethod
    def create(cls, number: int, size: int) -> Space:
        """A new one.

        Raises:
            JobError: this machine gives no such memory.
        """
        size = aligned(max(size, PAGE), PAGE)
        try:
            file = os.memfd_create(NAME, os.MFD_CLOEXEC)
            os.ftruncate(file, size)
            return cls(number, file, size)
        except OSError as error:
            raise JobError(
                f"a parallel call needs {size >> 10} KiB of shared memory, for the kernel a file; received: {error}. "
                "Look at `ulimit -f`, `ulimit -v` and `ulimit -n`, or use a smaller batch."
            ) from error

    @property
    def is_viewed(self) -> bool:
        """Whether a tensor lies here: its storage holds the mapping."""
        return sys.getrefcount(self._map) > 2  # this object, and the count itself

    def clear(self) -> None:
        """Nothing in it is needed any more."""
        self._used = 0

    def room_for(self, tensor: torch.Tensor) -> bool:
        """Whether another tensor fits."""
        return self._used + bytes_of(tensor) <= self.size

    def put(self, tensor: torch.Tensor, grad: bool = False) -> Ref:
        """Copy a tensor.

        Args:
            tensor: the tensor.
            grad: see `Ref`.
        """
        stride = torch.empty_like(tensor, device="meta").stride()
        ref = Ref(self.number, self._used, tensor.dtype, tuple(tensor.shape), stride, grad)
        self._used += bytes_of(tensor)
        self.view(ref).copy_(tensor)
        return ref

    def flat(self, dtype: torch.dtype, offset: int, count: int) -> torch.Tensor:
        """Elements that lie here."""
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset)

    def lent(self) -> memoryview:
        """Its memory for somebody who keeps tensors in it: alive as long as one of them is."""
        return memoryview(self._map)

    def view(self, ref: Ref, memory: memoryview | None = None) -> torch.Tensor:
        """A tensor that lies here, with a storage of its own size.

        Args:
            ref: where.
            memory: what it keeps alive; see `lent`.
        """
        count = 1
        for length in ref.shape:
            count *= length
        if not count:
            return torch.empty_strided(ref.shape, ref.stride, dtype=ref.dtype)
        flat = torch.frombuffer(memory or self._map, dtype=ref.dtype, count=count, offset=ref.offset)
        return flat.as_strided(ref.shape, ref.stride)

    def close(self) -> None:
        """Give the file back; the memory goes when its last view does."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def bytes_of(tensor: torch.Tensor) -> int:
    """What a tensor takes in a space."""
    return aligned(tensor.numel() * tensor.element_size(), ALIGNMENT)


class Spaces:
    """Spaces that grow as they are needed.

    Args:
        numbered: gives a new space's number.
    """

    def __init__(self, numbered: Callable[[], int]) -> None:
        self._numbered = numbered
        self._free: list[Space] = []

    def take(self, size: int) -> Space:
        """An empty one of at least so many bytes."""
        fitting = [space for space in self._free if space.size >= size]
        if fitting:
            space = min(fitting, key=lambda each: each.size)
            self._free.remove(space)
            space.clear()
            return space
        return Space.create(self._numbered(), size + size // 4)

    def give(self, space: Space) -> None:
        """One is not needed any more."""
        self._free.append(space)

    def close(self) -> None:
        """Give all that are free back."""
        for space in self._free:
            space.close()
        self._free.clear()


def written(leaf: Any, put: Callable[..., Ref]) -> Any:
    """An argument or output as it travels."""
    return put(leaf, leaf.requires_grad) if isinstance(leaf, torch.Tensor) else leaf


def read(leaf: Any, spaces: Callable[[int], Space]) -> Any:
    """An argument or output that has travelled, where it lies."""
    if not isinstance(leaf, Ref):
        return leaf
    found = spaces(leaf.space).view(leaf)
    return found.requires_grad_() if leaf.grad else found
