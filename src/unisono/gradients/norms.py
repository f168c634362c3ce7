"""The global gradient norm: one partial per block, combined in (parameter, block) order.

Within a block nothing but whole vectors are added, element by element, so that NumPy, torch and a device give the same
bits: a library's own sum adds in an order of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from unisono.gradients.regions import BLOCK, Piece, Region
from unisono.values.arrays import Array

ROW = 256
"""Elements of a row. A block's rows are added one after another, then the row halves: halving from the start takes
NumPy twice the time."""


def block_sums(values: Array, out: Array) -> None:
    """Write Σ x² of each block of a piece that starts on a block boundary.

    Args:
        values: the piece's elements.
        out: one float64 per block (the last block may be partial).
    """
    whole = values.size // BLOCK
    squares = values * values
    if whole:
        out[:whole] = halved(rows_added(squares[: whole * BLOCK].reshape(whole, BLOCK)))
    if values.size > whole * BLOCK:
        out[whole] = halved(rows_added(squares[whole * BLOCK :]))


def rows_added(values: Array) -> Array:
    """The sum of the rows that the last axis is cut into, the first row first; the last row may be short.

    >>> rows_added(np.repeat([1.0, 2.0, 4.0], [ROW, ROW, 3]))[[0, 2, 3, -1]].tolist()
    [7.0, 7.0, 3.0, 3.0]
    """
    size = values.shape[-1]
    if size <= ROW:
        return values
    whole = size // ROW * ROW
    total: Array = values[..., :whole].reshape(*values.shape[:-1], -1, ROW).sum(axis=-2)
    if whole < size:
        total[..., : size - whole] += values[..., whole:]
    return total


def halved(values: Array) -> Array:
    """The sum over the last axis, which is overwritten: second halves are added to first ones, down to one number.

    Halves are those of the next power of two, as if there were zeros at the end.

    >>> float(halved(np.array([1.0, 2.0, 4.0, 8.0, 16.0])))
    31.0
    """
    size = values.shape[-1]
    while size > 1:
        half = 1 << ((size - 1).bit_length() - 1)
        left = values[..., : size - half]
        np.add(left, values[..., half:size], out=left)
        size = half
    return values[..., 0]


class NormTable:
    """Where each block's partial lies: parameters in the order of their numbers over the whole model."""

    def __init__(self, regions: Sequence[Region]) -> None:
        parameters = sorted((p for region in regions for p in region.parameters), key=lambda p: p.number)
        counts = [-(-parameter.size // BLOCK) for parameter in parameters]
        starts = [0, *accumulate(counts)]
        self.length = starts[-1]
        self._first = {p.number: start for p, start in zip(parameters, starts[:-1], strict=True)}

    def span(self, piece: Piece) -> slice:
        """The partials of a piece."""
        first = self._first[piece.parameter.number]
        return slice(first + piece.start // BLOCK, first + -(-piece.stop // BLOCK))


def clip_coefficient(norm: float, limit: float) -> float:
    """The factor that brings a gradient of this norm down to the limit (1 when it is below).

    >>> clip_coefficient(0.5, 1.0), round(clip_coefficient(2.0, 1.0), 4)
    (1.0, 0.5)
    """
    return min(1.0, limit / (norm + 1e-6))


def total_norm(partials: Array) -> float:
    """√Σ of the partials, added in order."""
    return float(np.sqrt(np.add.accumulate(partials)[-1])) if partials.size else 0.0
