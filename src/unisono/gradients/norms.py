"""The global gradient norm: one partial per block, combined in (parameter, block) order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from unisono.gradients.regions import BLOCK, Piece, Region


def block_sums(values: NDArray[np.floating], out: NDArray[np.float64]) -> None:
    """Write Σ x² of each block of a piece that starts on a block boundary.

    Args:
        values: the piece's elements.
        out: one float64 per block (the last block may be partial).
    """
    whole = values.size // BLOCK
    squares = values * values
    if whole:
        out[:whole] = squares[: whole * BLOCK].reshape(whole, BLOCK).sum(axis=1)
    if values.size > whole * BLOCK:
        out[whole] = squares[whole * BLOCK :].sum()


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


def total_norm(partials: NDArray[np.float64]) -> float:
    """√Σ of the partials, added in order."""
    return float(np.sqrt(np.add.accumulate(partials)[-1])) if partials.size else 0.0
