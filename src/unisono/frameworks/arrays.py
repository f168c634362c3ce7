"""Arrays of this process: on 64-byte boundaries, where bits cannot depend on addresses; put back as they were; and how
first values and gradients get into them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from unisono.frameworks.protocol import Array

ALIGNMENT = 64


def aligned_zeros(shape: int | Sequence[int], dtype: Any) -> Array:
    """Zeros that begin on a boundary.

    >>> aligned_zeros((2, 2), "float32").ctypes.data % ALIGNMENT
    0
    """
    kind = np.dtype(dtype)
    size = kind.itemsize * int(np.prod(shape))
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    zeros: Array = raw[start : start + size].view(kind).reshape(shape)
    return zeros


def aligned_copy(values: Any) -> Array:
    """A private copy that begins on a boundary."""
    held = np.asarray(values)
    copy = aligned_zeros(held.shape, held.dtype)
    copy[...] = held
    return copy


@contextmanager
def restoring(arrays: Sequence[Array]) -> Iterator[None]:
    """A block after which arrays hold what they held before.

    >>> array = np.ones(2)
    >>> with restoring([array]):
    ...     array += 1
    >>> array
    array([1., 1.])
    """
    before = [array.copy() for array in arrays]
    try:
        yield
    finally:
        for array, values in zip(arrays, before, strict=True):
            array[...] = values


def leave(gradient: Any, into: Array, add: bool) -> None:
    """Write a gradient, or add it.

    Args:
        gradient: as an array; 0 where there was none, which is added too, for −0 + 0 = 0.
        into: where.
        add: whether to add.

    >>> sums = np.array([1.0, -0.0])
    >>> leave(0, sums, add=True)
    >>> sums
    array([1., 0.])
    """
    if add:
        np.add(into, gradient, out=into)
    else:
        np.copyto(into, gradient)


def leave_or_nothing(gradient: Any, number: int, into: Mapping[int, Array], used: Array, add: bool) -> None:
    """Write or add a parameter's gradient and mark it as used; None is no gradient.

    >>> sums, used = {1: np.ones(1)}, np.zeros(2)
    >>> leave_or_nothing(np.ones(1), 1, sums, used, add=True)
    >>> sums, used
    ({1: array([2.])}, array([0., 1.]))
    """
    leave(0 if gradient is None else gradient, into[number], add)
    if gradient is not None:
        used[number] = 1


def leave_first(values: Any, into: Array) -> None:
    """Write first values into memory that holds zeros: where they are zeros, no page is asked for before it is needed.

    Args:
        values: an array, or one number for all elements.
        into: where.

    >>> state = np.zeros(2)
    >>> leave_first(-0.0, state)  # another zero
    >>> state
    array([-0., -0.])
    """
    held = np.ascontiguousarray(values, into.dtype)
    if held.reshape(-1).view(np.uint8).any():
        into[...] = held
