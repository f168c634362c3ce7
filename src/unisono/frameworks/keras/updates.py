"""The update of one chunk: elementwise optimizers on tiles of a few fixed sizes, all others on whole tensors.

A tile never has a remainder (one that is not full is padded), so how the parameters are cut cannot choose between a
vector unit's instructions and what a compiler makes of a loop's end; and there are few shapes to compile for any model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np

from unisono.frameworks.arrays import aligned_zeros
from unisono.frameworks.keras.backends import BACKEND
from unisono.frameworks.keras.optimizers import ITERATIONS, Rule
from unisono.frameworks.protocol import Array, Scratch
from unisono.frameworks.scratch import onward
from unisono.gradients.regions import BLOCK, CHUNK, Piece

TILES = tuple(BLOCK << power for power in range((CHUNK // BLOCK).bit_length()))
"""Elements of a tile, from the least to a whole chunk: a call costs TensorFlow as much as the sums in it, so that each
run of neighbours is one tile."""


class Operands:
    """Arrays that a rule works on in place.

    Args:
        rule: it has these variables.
        parameters, gradients, slots: the arrays.
    """

    def __init__(
        self, rule: Rule, parameters: Sequence[Array], gradients: Sequence[Array], slots: Sequence[Array]
    ) -> None:
        self._rule, self._changing = rule, [*parameters, *slots]
        self._tensors = [[BACKEND.alias(array) for array in group] for group in (parameters, gradients, slots)]

    def step(self, row: Sequence[float], used: tuple[int, ...] = (0,)) -> Sequence[Any]:
        """One step; returns the new numbers that all parameters share.

        Args:
            row: the numbers before, from the table.
            used: which variables have a gradient.
        """
        pairs = zip(row, self._rule.types, strict=True)
        scalars = [BACKEND.tensor(np.array(value, dtype=kind)) for value, kind in pairs]
        parameters, slots, numbers = self._rule.compiled(used)(*self._tensors, scalars)
        given = (*self._tensors[0], *self._tensors[2])
        for tensor, result, array in zip(given, (*parameters, *slots), self._changing, strict=True):
            if result is not tensor and result is not None:  # else it was made where it belongs
                np.copyto(array, BACKEND.array(result))
        found: Sequence[Any] = numbers
        return found


Tiles = Callable[[int], Rule]
"""Elements of a tile → its elementwise rule; there is one for each of TILES, made when it is wanted."""


class _Run:
    """Neighbours with the same settings and a gradient: one tile, in place where they fill it.

    Args:
        spans: the chunk's parameters, gradients and slots.
        start, stop: the run's part of them.
        tiles: the rules of its settings.
    """

    def __init__(self, spans: Sequence[Array], start: int, stop: int, tiles: Tiles) -> None:
        parts = [span[start:stop] for span in spans]
        size = next(size for size in TILES if size >= stop - start)
        self._padded: list[tuple[Array, Array]] = []
        if size > stop - start:
            tile = [aligned_zeros(size, part.dtype) for part in parts]
            self._padded = [(array[: stop - start], part) for array, part in zip(tile, parts, strict=True)]
            parts = tile
        self._operands = Operands(tiles(size), parts[:1], parts[1:2], parts[2:])

    def step(self, row: Sequence[float]) -> Sequence[Any]:
        """See `Operands.step`."""
        for array, part in self._padded:
            array[:] = part
        numbers = self._operands.step(row)
        for array, part in self._padded:
            part[:] = array
        return numbers


class TileUpdate:
    """An elementwise optimizer on a chunk. See `ChunkUpdate`.

    Args:
        scratch: what is updated.
        tiles: per parameter number the rules of its settings.
    """

    def __init__(self, scratch: Scratch, tiles: Mapping[int, Tiles]) -> None:
        self._scratch, self._pieces, self._tiles = scratch, scratch.pieces, tiles
        first, size = self._pieces[0].parameter.number, scratch.parameters.size
        self._least = tiles[first](BLOCK)
        spans = [onward(scratch.state[first][key], size) for key in self._least.vectors[0]]
        self._spans = [scratch.parameters, scratch.gradients, *spans]
        self._runs = cache(self._cut)

    def step(self, before: Array, after: Array, used: Array) -> None:
        """See `ChunkUpdate.step`."""
        pieces = self._pieces
        flags = tuple(int(used[piece.parameter.number]) for piece in pieces)
        width = 1 + len(self._least.scalars)
        row = before[pieces[0].parameter.number, 1:width].tolist()
        numbers: Sequence[Any] = ()
        for run in self._runs(flags):
            numbers = run.step(row)
        result = self._least.floats(numbers or self._idle(row))
        for piece in pieces:
            if piece.start == 0:
                after[piece.parameter.number, :width] = [1.0, *result]

    def _idle(self, row: list[float]) -> Sequence[Any]:
        """The numbers after a step in which no parameter here had a gradient: those of a step on zeros."""
        parameter, gradient, *slots = (aligned_zeros(BLOCK, span.dtype) for span in self._spans)
        return Operands(self._least, [parameter], [gradient], slots).step(row)

    def _cut(self, flags: tuple[int, ...]) -> list[_Run]:
        """The runs of a step in which these pieces have a gradient."""
        found = []
        for flag, run in groupby(zip(flags, self._pieces, strict=True), lambda pair: pair[0] and self._of(pair[1])):
            if flag:
                places = [self._scratch.place(piece) for _, piece in run]
                found.append(_Run(self._spans, places[0].start, places[-1].stop, flag))
        return found

    def _of(self, piece: Piece) -> Tiles:
        return self._tiles[piece.parameter.number]


class TensorUpdate:
    """An optimizer on whole tensors: one rule over all parameters of the chunk, or one for each.

    Args:
        scratch: what is updated; each piece is a whole parameter.
        rules: (rule, numbers of the parameters that it steps).
    """

    def __init__(self, scratch: Scratch, rules: Sequence[tuple[Rule, Sequence[int]]]) -> None:
        self._groups = [_Group(*pair, scratch) for pair in rules]

    def step(self, before: Array, after: Array, used: Array) -> None:
        """See `ChunkUpdate.step`."""
        for group in self._groups:
            group.step(before, after, used)


class _Group:
    """Parameters that one rule steps together."""

    def __init__(self, rule: Rule, numbers: Sequence[int], scratch: Scratch) -> None:
        self._rule, self._numbers = rule, numbers
        pieces = {piece.parameter.number: piece for piece in scratch.pieces}
        parameters, gradients = (
            [scratch.shaped(span, pieces[number]) for number in numbers]
            for span in (scratch.parameters, scratch.gradients)
        )
        slots = {
            place: scratch.state[number][key]
            for number, keys in zip(numbers, rule.vectors, strict=True)
            for key, place in keys.items()
        }
        ordered = [slots[place] for place in range(len(rule.slots))]
        self._operands = Operands(rule, parameters, gradients, ordered)

    def step(self, before: Array, after: Array, used: Array) -> None:
        """One step of the parameters that had a gradient; the count of steps goes on for all."""
        names = self._rule.scalars
        width = 1 + len(names)
        row = before[self._numbers[0], 1:width].tolist()
        result = [value + (name == ITERATIONS) for name, value in zip(names, row, strict=True)]
        chosen = tuple(index for index, number in enumerate(self._numbers) if used[number])
        if chosen:
            result = self._rule.floats(self._operands.step(row, chosen))
        for number in self._numbers:
            after[number, :width] = [1.0, *result]
