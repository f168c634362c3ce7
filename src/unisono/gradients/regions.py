"""Flat vectors: where each parameter lies, and how the update is shared out.

Parameters keep their number over the whole model; for placement they are grouped into *regions*, one per dtype and
optimizer, so that a region has one kind of update and one set of state vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import Literal

import numpy as np

from unisono.values.arrays import Array

BLOCK = 4096
"""Elements of a block: the grain of slices, undo chunks and norms; a multiple of 64."""

CHUNK = 64 * BLOCK
"""Elements of an undo chunk at most (256 Ki measured best), unless one tensor or model may not be cut."""

Kind = Literal["elementwise", "tensor", "whole"]


@dataclass(frozen=True)
class Parameter:
    """A trained parameter: its number and name in the whole model, its shape, its place in the region (elements)."""

    number: int
    name: str
    shape: tuple[int, ...]
    offset: int

    @cached_property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """The element after its last."""
        return self.offset + self.size

    def of(self, vector: Array) -> Array:
        """Its elements in a vector of its region, in its shape."""
        return vector[self.offset : self.end].reshape(self.shape)


@dataclass(frozen=True)
class Region:
    """A flat vector of one dtype whose parameters one optimizer updates, each tensor aligned to 64 bytes."""

    index: int
    dtype: str
    optimizer: int
    kind: Kind
    parameters: tuple[Parameter, ...]
    length: int

    @staticmethod
    def pack(
        index: int,
        dtype: str,
        optimizer: int,
        kind: Kind,
        members: Sequence[tuple[int, str, tuple[int, ...]]],
    ) -> Region:
        """Lay parameters (number, name, shape) one after another, each on a 64-byte boundary.

        >>> region = Region.pack(0, "float32", 0, "elementwise", [(0, "w", (3,)), (1, "b", (2, 2))])
        >>> [parameter.offset for parameter in region.parameters], region.length
        ([0, 16], 32)
        """
        grain = 64 // np.dtype(dtype).itemsize
        parameters, offset = [], 0
        for number, name, shape in members:
            parameter = Parameter(number, name, shape, offset)
            parameters.append(parameter)
            offset = -(-parameter.end // grain) * grain
        return Region(index, dtype, optimizer, kind, tuple(parameters), offset)


@dataclass(frozen=True)
class Piece:
    """A part of one parameter: elements start…stop counted from the parameter's start; never padding."""

    parameter: Parameter
    start: int
    stop: int


@dataclass(frozen=True)
class Chunk:
    """What is updated in one undo-logged go: a contiguous span of a region and the pieces in it.

    Attributes:
        region: its number.
        pieces: what is in the span.
        stage: the stage of the model that the pieces belong to.
    """

    region: int
    pieces: tuple[Piece, ...]
    stage: int

    @property
    def start(self) -> int:
        """First element of the span in the region."""
        return self.pieces[0].parameter.offset + self.pieces[0].start

    @property
    def stop(self) -> int:
        """The element after the span."""
        return self.pieces[-1].parameter.offset + self.pieces[-1].stop


def _units(region: Region) -> Iterator[tuple[Piece, ...]]:
    """What may not be cut: blocks, whole tensors or the whole region, by the kind of its optimizer."""
    if region.kind == "whole":
        yield tuple(Piece(parameter, 0, parameter.size) for parameter in region.parameters)
        return
    for parameter in region.parameters:
        grain = BLOCK if region.kind == "elementwise" else max(parameter.size, 1)
        for start in range(0, parameter.size, grain):
            yield (Piece(parameter, start, min(start + grain, parameter.size)),)


def _merge(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Join neighbouring pieces of the same parameter."""
    merged = []
    for _, members in groupby(pieces, key=lambda piece: piece.parameter.number):
        run = list(members)
        merged.append(Piece(run[0].parameter, run[0].start, run[-1].stop))
    return tuple(merged)


def slices(regions: Sequence[Region], slots: int, stages: int = 1, stage_of: Sequence[int] = ()) -> list[list[Chunk]]:
    """Share the update out: each slot gets contiguous runs of units, about the same number of elements.

    A stage's parameters are shared among the slots that are not busy with an earlier one when its sums are complete:
    those of this stage and of later ones. The last stage is updated first.

    Args:
        regions: the trained regions.
        slots: how many slots there are.
        stages: stages of the model; slot k is one of stage k mod stages.
        stage_of: the stage of each parameter by number; nothing = all of them wait for the first one.

    Returns:
        For each slot the chunks it updates; together they are disjoint and cover every trained element.

    >>> region = Region.pack(0, "float32", 0, "elementwise", [(0, "w", (3 * BLOCK,)), (1, "v", (2 * BLOCK,))])
    >>> [[(chunk.start // BLOCK, chunk.stop // BLOCK) for chunk in part] for part in slices([region], 2)]
    [[(0, 2)], [(2, 5)]]
    >>> [[(chunk.start // BLOCK, chunk.stop // BLOCK) for chunk in part] for part in slices([region], 2, 2, [0, 1])]
    [[(0, 1)], [(3, 5), (1, 3)]]
    """
    units = [(region.index, unit) for region in regions for unit in _units(region)]
    parts: list[list[Chunk]] = [[] for _ in range(slots)]
    for stage in reversed(range(stages)):
        own = [at for at, (_, unit) in enumerate(units) if _stage(unit, stage_of) == stage]
        takers = [slot for slot in range(slots) if slot % stages >= stage]
        for taker, run in zip(takers, _shared([_size(units[at][1]) for at in own], len(takers)), strict=True):
            parts[taker] += _chunks([(at, *units[at]) for at in own[run.start : run.stop]], stage)
    return parts


def _size(unit: Sequence[Piece]) -> int:
    return sum(piece.stop - piece.start for piece in unit)


def _stage(unit: Sequence[Piece], stage_of: Sequence[int]) -> int:
    """The stage whose sums are complete last, of those that a unit belongs to."""
    return min(stage_of[piece.parameter.number] for piece in unit) if stage_of else 0


def _shared(weights: Sequence[int], parts: int) -> list[range]:
    """Runs of about the same weight."""
    total, done = max(sum(weights), 1), 0
    counts = [0] * parts
    for weight in weights:
        counts[min((2 * done + weight) * parts // (2 * total), parts - 1)] += 1
        done += weight
    ends = list(accumulate(counts))
    return [range(end - count, end) for count, end in zip(counts, ends, strict=True)]


def _chunks(units: Sequence[tuple[int, int, tuple[Piece, ...]]], stage: int) -> list[Chunk]:
    """Join units (place among all, region, pieces) that are neighbours."""
    chunks: list[Chunk] = []
    held: list[Piece] = []
    elements, before = 0, (0, 0)  # of those held; place, region
    for at, region, unit in units:
        size = _size(unit)
        if held and ((at - 1, region) != before or elements + size > CHUNK):
            chunks.append(Chunk(before[1], _merge(held), stage))
            held, elements = [], 0
        held.extend(unit)
        elements += size
        before = at, region
    if held:
        chunks.append(Chunk(before[1], _merge(held), stage))
    return chunks
