"""The update of one chunk: elementwise optimizers on tiles of a few fixed sizes, all others on whole tensors.

A tile never has a remainder (one that is not full is padded), so how the parameters are cut cannot choose between a
vector unit's instructions and what a compiler makes of a loop's end; and there are few shapes to compile for any model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unisono.frameworks.arrays import aligned_zeros
from unisono.frameworks.keras.optimizers import ITERATIONS, Rule
from unisono.frameworks.protocol import Array
from unisono.gradients.regions import BLOCK, CHUNK, Chunk

TILES = tuple(BLOCK << power for power in range((CHUNK // BLOCK).bit_length()))
"""Elements of a tile, from the least to a whole chunk: a call costs TensorFlow as much as the sums in it, so that each
run of neighbours is one tile."""


class Stepper:
    """A rule compiled for one backend."""

    def __init__(self, rule: Rule, backend: Any) -> None:
        self.rule, self._backend = rule, backend
        self._types = rule.types()
        self._compiled: dict[tuple[int, ...], Callable[..., Any]] = {}

    def scalars(self, row: Sequence[float]) -> list[Any]:
        """Numbers from the table as tensors."""
        return [self._backend.tensor(np.array(value, dtype=kind))
                for value, kind in zip(row, self._types, strict=True)]  # fmt: skip

    def __call__(
        self, parameters: Sequence[Any], gradients: Sequence[Any], slots: Sequence[Any], scalars: Sequence[Any],
        used: tuple[int, ...],
    ) -> Any:  # fmt: skip
        """One step; see `Rule.apply`."""
        if used not in self._compiled:
            self._compiled[used] = self._backend.compiled(
                lambda p, g, s, numbers: self.rule.apply(p, g, s, numbers, used)
            )
        return self._compiled[used](list(parameters), list(gradients), list(slots), list(scalars))

    def run(self, arrays: Sequence[Array], row: Sequence[float]) -> list[float]:
        """One step in place on parameter, gradient and slots; returns the new numbers."""
        p, g, *slots = (self._backend.alias(array) for array in arrays)
        parameters, new_slots, numbers = self([p], [g], slots, self.scalars(row), (0,))
        for given, result, array in zip((p, *slots), (*parameters, *new_slots), (arrays[0], *arrays[2:]), strict=True):
            self.home(given, result, array)
        return [float(self._backend.array(number)) for number in numbers]

    def home(self, given: Any, result: Any, into: Array) -> None:
        """Bring a result to where it belongs, unless it was made there."""
        if result is not given and result is not None:
            np.copyto(into, self._backend.array(result))


class _Place:
    """Arrays that one call of a stepper works on: parameter, gradient and slots, and tensors over them."""

    def __init__(self, arrays: Sequence[Array], backend: Any) -> None:
        self.arrays = arrays
        self.tensors = [backend.alias(array) for array in arrays]


class Tiles:
    """The steppers of an elementwise rule, one for each of TILES, made when they are wanted.

    Args:
        make: elements of a tile → its stepper.
    """

    def __init__(self, make: Callable[[int], Stepper]) -> None:
        self._make = make
        self._made: dict[int, Stepper] = {}

    def __getitem__(self, size: int) -> Stepper:
        if size not in self._made:
            self._made[size] = self._make(size)
        return self._made[size]


class _Run:
    """Neighbours with the same settings and a gradient: one tile, in place where they fill it.

    Args:
        spans: the chunk's parameters, gradients and slots.
        start, stop: the run's part of them.
        tiles: the steppers of its settings.
        backend: see `backends`.
    """

    def __init__(self, spans: Sequence[Array], start: int, stop: int, tiles: Tiles, backend: Any) -> None:
        self._parts = [span[start:stop] for span in spans]
        self._length = stop - start
        size = next(size for size in TILES if size >= self._length)
        self._fills = size == self._length
        self._place = _Place(
            self._parts if self._fills else [aligned_zeros(size, part.dtype) for part in self._parts], backend
        )
        self._stepper = tiles[size]

    def step(self, row: Sequence[float]) -> Sequence[Any]:
        """One step; returns the new numbers that all parameters share."""
        arrays, stepper = self._place.arrays, self._stepper
        if not self._fills:
            for array, part in zip(arrays, self._parts, strict=True):
                array[: self._length] = part
        p, g, *slots = self._place.tensors
        parameters, new_slots, numbers = stepper([p], [g], slots, stepper.scalars(row), (0,))
        stepper.home(p, parameters[0], arrays[0])
        for given, result, array in zip(slots, new_slots, arrays[2:], strict=True):
            stepper.home(given, result, array)
        if not self._fills:
            for array, part in zip(arrays, self._parts, strict=True):
                part[:] = array[: self._length]
        return list(numbers)


class TileUpdate:
    """An elementwise optimizer on a chunk. See `ChunkUpdate`.

    Args:
        chunk: the pieces.
        parameters, gradients: the chunk's span.
        state: per parameter number its slots by key.
        tiles: per parameter number the steppers of its settings.
        backend: see `backends`.
    """

    def __init__(
        self, chunk: Chunk, parameters: Array, gradients: Array, state: Mapping[int, Mapping[str, Array]],
        tiles: Mapping[int, Tiles], backend: Any,
    ) -> None:  # fmt: skip
        self._chunk, self._backend, self._tiles = chunk, backend, tiles
        first = chunk.pieces[0].parameter.number
        self._least = tiles[first][BLOCK]
        spans = [self._span(state[first][key], parameters.size) for key in self._least.rule.vectors[0]]
        self._spans = [parameters, gradients, *spans]
        self._runs: dict[tuple[int, ...], list[_Run]] = {}

    @staticmethod
    def _span(first: Array, size: int) -> Array:
        """The chunk's part of a state vector, of which `first` is the first piece: they lie as the parameters do."""
        return np.lib.stride_tricks.as_strided(first, (size,), (first.itemsize,))

    def step(self, before: Array, after: Array, used: Array) -> None:
        """See `ChunkUpdate.step`."""
        pieces = self._chunk.pieces
        flags = tuple(int(used[piece.parameter.number]) for piece in pieces)
        if flags not in self._runs:
            self._runs[flags] = self._cut(flags)
        width = 1 + len(self._least.rule.scalars)
        row = before[pieces[0].parameter.number, 1:width].tolist()
        numbers: Sequence[Any] = ()
        for run in self._runs[flags]:
            numbers = run.step(row)
        result = [float(self._backend.array(n)) for n in numbers] if numbers else self._idle(row)
        for piece in pieces:
            if piece.start == 0:
                after[piece.parameter.number, :width] = [1.0, *result]

    def _idle(self, row: list[float]) -> list[float]:
        """The numbers after a step in which no parameter here had a gradient: those of a step on zeros."""
        return self._least.run([aligned_zeros(BLOCK, span.dtype) for span in self._spans], row)

    def _cut(self, flags: tuple[int, ...]) -> list[_Run]:
        """The runs of a step in which these pieces have a gradient."""
        found: list[tuple[Tiles, int, int]] = []
        adjoining = False
        for piece, flag in zip(self._chunk.pieces, flags, strict=True):
            start = piece.parameter.offset + piece.start - self._chunk.start
            stop = start + piece.stop - piece.start
            tiles = self._tiles[piece.parameter.number]
            if flag and adjoining and found[-1][0] is tiles:
                found[-1] = (tiles, found[-1][1], stop)
            elif flag:
                found.append((tiles, start, stop))
            adjoining = bool(flag)
        return [_Run(self._spans, start, stop, tiles, self._backend) for tiles, start, stop in found]


class TensorUpdate:
    """An optimizer on whole tensors: one stepper over all parameters of the chunk, or one for each.

    Args:
        chunk: the pieces, each a whole parameter.
        parameters, gradients: the chunk's span.
        state: per parameter number its slots by key.
        steppers: (stepper, numbers of the parameters that it steps).
        backend: see `backends`.
    """

    def __init__(
        self, chunk: Chunk, parameters: Array, gradients: Array, state: Mapping[int, Mapping[str, Array]],
        steppers: Sequence[tuple[Stepper, Sequence[int]]], backend: Any,
    ) -> None:  # fmt: skip
        self._groups = [_Group(stepper, numbers, chunk, (parameters, gradients, state), backend)
                        for stepper, numbers in steppers]  # fmt: skip

    def step(self, before: Array, after: Array, used: Array) -> None:
        """See `ChunkUpdate.step`."""
        for group in self._groups:
            group.step(before, after, used)


class _Group:
    """Parameters that one stepper steps together."""

    def __init__(
        self, stepper: Stepper, numbers: Sequence[int], chunk: Chunk,
        held: tuple[Array, Array, Mapping[int, Mapping[str, Array]]], backend: Any,
    ) -> None:  # fmt: skip
        self._stepper, self._numbers, self._backend = stepper, numbers, backend
        places = {piece.parameter.number: piece.parameter for piece in chunk.pieces}
        members = [places[number] for number in numbers]

        def views(vector: Array) -> list[Array]:
            return [vector[p.offset - chunk.start : p.end - chunk.start].reshape(p.shape) for p in members]

        slots = {
            place: held[2][number][key]
            for number, keys in zip(numbers, stepper.rule.vectors, strict=True)
            for key, place in keys.items()
        }
        self._parameters = _Place(views(held[0]), backend)
        self._gradients = _Place(views(held[1]), backend)
        self._slots = _Place([slots[place] for place in range(len(stepper.rule.slots))], backend)

    def step(self, before: Array, after: Array, used: Array) -> None:
        """One step of the parameters that had a gradient; the count of steps goes on for all."""
        stepper, rule = self._stepper, self._stepper.rule
        width = 1 + len(rule.scalars)
        row = before[self._numbers[0], 1:width].tolist()
        result = [value + (name == ITERATIONS) for name, value in zip(rule.scalars, row, strict=True)]
        chosen = tuple(index for index, number in enumerate(self._numbers) if used[number])
        if chosen:
            parameters, slots, numbers = stepper(
                self._parameters.tensors, self._gradients.tensors, self._slots.tensors, stepper.scalars(row), chosen
            )
            for place, values in ((self._parameters, parameters), (self._slots, slots)):
                for given, value, array in zip(place.tensors, values, place.arrays, strict=True):
                    stepper.home(given, value, array)
            result = [float(self._backend.array(number)) for number in numbers]
        for number in self._numbers:
            after[number, :width] = [1.0, *result]
