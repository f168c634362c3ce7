"""The arrays that one chunk is updated in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from unisono.gradients.regions import Chunk, Piece, Region
from unisono.values.arrays import Array

States = Mapping[int, Mapping[str, Array]]
"""Per parameter number its state by key."""


class Scratch(NamedTuple):
    """A chunk's span of parameters and gradients, and the state of the parameters in it."""

    region: Region
    chunk: Chunk
    parameters: Array
    gradients: Array
    state: States

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The chunk's."""
        return self.chunk.pieces

    def place(self, piece: Piece) -> slice:
        """Where a piece lies in the span.

        >>> region = Region.pack(0, "float32", 0, "elementwise", [(0, "w", (16,)), (1, "b", (2,))])
        >>> pieces = Piece(region.parameters[0], 4, 8), Piece(region.parameters[1], 0, 2)
        >>> Scratch(region, Chunk(0, pieces, 0), [], [], {}).place(pieces[1])
        slice(12, 14, None)
        """
        start = piece.parameter.offset + piece.start - self.chunk.start
        return slice(start, start + piece.stop - piece.start)

    def shaped(self, span: Array, piece: Piece) -> Array:
        """A whole parameter's part of the span, in its shape."""
        return span[self.place(piece)].reshape(piece.parameter.shape)


def onward(first: Array, size: int) -> Array:
    """So many elements of a state vector, of which `first` is the first piece's: they lie as the parameters do."""
    return np.lib.stride_tricks.as_strided(first, (size,), (first.itemsize,))
