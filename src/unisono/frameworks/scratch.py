"""The arrays that one chunk is updated in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from unisono.frameworks.protocol import Array
from unisono.gradients.regions import Chunk, Piece

States = Mapping[int, Mapping[str, Array]]
"""Per parameter number its state by key."""


class Scratch(NamedTuple):
    """A chunk's span of parameters and gradients, and the state of the parameters in it."""

    chunk: Chunk
    parameters: Array
    gradients: Array
    state: States

    def place(self, piece: Piece) -> slice:
        """Where a piece lies in the span.

        >>> from unisono.gradients.regions import Parameter
        >>> pieces = Piece(Parameter(0, "w", (8,), 16), 4, 8), Piece(Parameter(1, "b", (2,), 32), 0, 2)
        >>> Scratch(Chunk(0, pieces, 0), [], [], {}).place(pieces[1])
        slice(12, 14, None)
        """
        start = piece.parameter.offset + piece.start - self.chunk.start
        return slice(start, start + piece.stop - piece.start)
