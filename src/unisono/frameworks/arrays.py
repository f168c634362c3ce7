"""Arrays of this process: on 64-byte boundaries, where bits cannot depend on addresses; and put back as they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
