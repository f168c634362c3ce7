"""Arrays as they travel between hosts: flat bytes, one after the other in a message."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisono.frameworks.protocol import Array
from unisono.values.untrusted import Malformed


def flat(array: Array) -> Array:
    """An array's bytes: the same memory, where it is in one piece.

    >>> flat(np.ones(2, np.int16))
    array([1, 0, 1, 0], dtype=uint8)
    """
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def joined(arrays: Iterable[Array]) -> Array:
    """The bytes of several, in new memory."""
    return np.concatenate([np.empty(0, np.uint8), *map(flat, arrays)])


@dataclass
class Reader:
    """Takes arrays out of a message again, in the order in which they were put there.

    Args:
        data: the message's bytes.
        at: where they begin.

    >>> Reader(joined([np.array([1.5]), np.array([7])])).take(np.float64, (1,))
    array([1.5])
    """

    data: Any
    at: int = 0

    @property
    def left(self) -> int:
        """Bytes that no array has taken yet."""
        return len(self.data) - self.at

    def take(self, dtype: Any, shape: Sequence[int]) -> Array:
        """The next array, as a view.

        Raises:
            Malformed: there are fewer bytes.
        """
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if size > self.left:
            raise Malformed(f"an array of {size:,} bytes, where {self.left:,} are left")
        view: Array = np.ndarray(shape, kind, self.data, self.at)
        self.at += size
        return view

    def fill(self, target: Array) -> None:
        """The next array, into an array."""
        target[...] = self.take(target.dtype, target.shape)
