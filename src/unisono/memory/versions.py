"""The last two versions of something that grows, in shared memory: the next one is written beside the one in force.

Whoever dies while writing leaves the one in force as it was. An area is address space: what nobody has written costs
no memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisono.errors import JobError
from unisono.memory import crossing
from unisono.memory.segment import ALIGNMENT, aligned
from unisono.values.arrays import Array


@dataclass
class Versions:
    """Plain values and arrays by name, in two versions.

    Args:
        areas: two uint8 arrays of shared memory, for even and odd versions. Each begins with three words: the version's
            number and one, the bytes in use, and a number that goes with it.
        what: what a person calls it.
    """

    areas: Sequence[Array]
    what: str

    def write(self, version: int, plain: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Write a version over the one before the last.

        Args:
            version: its number.
            plain: names of what JSON can hold; under "note" may be a number that is read often.
            arrays: may lie anywhere.

        Raises:
            JobError: it is too large.
        """
        area = self.areas[version & 1]
        words = self.words(version)
        room = area.size - ALIGNMENT
        needed = sum(aligned(array.nbytes) for array in arrays.values())
        if needed > room:
            raise JobError(
                f"{self.what} may take {room:,} bytes; it has grown to {needed:,}. Keep less: what grows with every "
                "step ends any run."
            )
        words[0] = 0
        words[1] = crossing.write(list(arrays.values()), [list(arrays), plain], area[ALIGNMENT:])
        note = plain.get("note")
        words[2:3].view(np.float64)[0] = math.nan if note is None else note
        words[0] = version + 1

    def repeat(self, version: int) -> None:
        """Make the next version the same as this one."""
        words, end = self.words(version + 1), ALIGNMENT + int(self.words(version)[1])
        words[0] = 0
        self.areas[(version + 1) & 1][8:end] = self.areas[version & 1][8:end]
        words[0] = version + 2

    def note(self, version: int) -> float:
        """The number that goes with a version; NaN where there is none."""
        return float(self.words(version)[2:3].view(np.float64)[0])

    def read(self, version: int) -> tuple[Any, dict[str, Array]]:
        """A version: plain values, and arrays that are views of shared memory."""
        assert self.words(version)[0] == version + 1, f"{self.what}: version {version} is not there"
        arrays, (names, plain) = crossing.read(self.areas[version & 1][ALIGNMENT:])
        return plain, {name: array for name, array in zip(names, arrays, strict=True) if array is not None}

    def words(self, version: int) -> Array:
        """The words before a version's bytes."""
        return self.areas[version & 1][:ALIGNMENT].view(np.int64)

    def used(self, version: int) -> Array:
        """A version's bytes in use.

        Raises:
            JobError: there cannot be so many; another host may have said so.
        """
        area, length = self.areas[version & 1], int(self.words(version)[1])
        if not 0 <= length <= area.size - ALIGNMENT:
            raise JobError(f"{self.what} has {area.size - ALIGNMENT:,} bytes; received {length:,} of it.")
        return area[ALIGNMENT : ALIGNMENT + length]
