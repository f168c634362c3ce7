"""What a forward pass may not change: the parameters, which all microbatches of a step share."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from unisono.errors import JobError
from unisono.frameworks.protocol import Array

LOOKED_AT = 16
"""Elements of a parameter that are compared where its framework leaves no other trace of a change."""


def some_of(values: Array) -> Array:
    """A view of a few elements of a contiguous array, from the first to the last.

    >>> import numpy as np
    >>> some_of(np.arange(61).reshape(61, 1)).tolist()
    [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60]
    """
    flat = values.reshape(-1)
    return flat[:: max(1, (flat.size - 1) // (LOOKED_AT - 1))]


class Samples:
    """A few elements of each of many arrays, read all at once: it takes a tenth of reading one array after another.

    Args:
        arrays: contiguous ones.

    >>> arrays = [np.zeros(3), np.zeros((40, 2))]
    >>> samples = Samples(arrays)
    >>> before = samples.read()
    >>> arrays[1] += 1
    >>> after = samples.read()
    >>> before == after, samples.first_other(before, after)
    (False, 1)
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        self._views = [some_of(array) for array in arrays]
        by_size: dict[int, list[int]] = {}
        for number, view in enumerate(self._views):
            if view.size:
                by_size.setdefault(view.itemsize, []).append(number)
        self._groups = [(*self._over(numbers), numbers) for numbers in by_size.values()]

    def _over(self, numbers: Sequence[int]) -> tuple[Array, Array]:
        """The memory that these views span, as elements of their size, and which of these are theirs."""
        views = [self._views[number] for number in numbers]
        places = [view.ctypes.data + np.arange(view.size) * view.strides[0] for view in views]
        size, start = views[0].itemsize, min(int(place[0]) for place in places)
        elements = (np.concatenate(places) - start) // size
        count = int(elements.max()) + 1
        memory: Any = (ctypes.c_uint8 * (count * size)).from_address(start)
        return np.ndarray((count,), f"V{size}", memory), elements

    def read(self) -> list[bytes]:
        """What they are now."""
        return [memory.take(elements).tobytes() for memory, elements, _ in self._groups]

    def first_other(self, before: Sequence[bytes], after: Sequence[bytes]) -> int:
        """The first array of which two readings differ."""
        found: list[int] = []
        for (_, elements, numbers), *readings in zip(self._groups, before, after, strict=True):
            old, new = (np.frombuffer(reading, np.uint8).reshape(len(elements), -1) for reading in readings)
            owners = np.repeat(numbers, [self._views[number].size for number in numbers])
            found += owners[(old != new).any(axis=1)].tolist()
        return min(found)


def check_same(names: Iterable[str], before: Iterable[Any], after: Iterable[Any], ways_out: str) -> None:
    """Refuse parameters that are other objects than before a pass that is traced.

    Raises:
        JobError: one is.
    """
    for name, old, new in zip(names, before, after, strict=True):
        if new is not old:
            raise JobError(refusal(repr(name), ways_out))


def refusal(what: str, ways_out: str) -> str:
    """What is said of a change.

    Args:
        what: the parameter.
        ways_out: what to write instead.
    """
    return (
        "a forward pass may not change parameters, which all microbatches of a step share; it has changed "
        f"{what}. {ways_out}."
    )
