"""An optax update run on one chunk of shared memory: tile by tile, or on the whole model."""

from __future__ import annotations

from typing import Any

import numpy as np

from unisono.frameworks.arrays import aligned_zeros
from unisono.frameworks.jax.memory import Shared, host
from unisono.frameworks.jax.optimizers import TILE, Optimizer
from unisono.frameworks.protocol import Array, Scratch


class _Operand:
    """The arrays of one tile: parameters, gradients and state vectors, each TILE elements.

    Args:
        arrays: they lie in shared memory, or in private memory that `parts` are copied to and from.
        parts: per array (place in shared memory, place in the private array); empty where it is the memory itself.
    """

    def __init__(self, arrays: list[Array], parts: list[list[tuple[Array, Array]]]) -> None:
        self._arrays, self._parts = arrays, parts
        self._shared = [Shared(array) for array in arrays]

    def read(self) -> list[Any]:
        for pairs in self._parts:
            for place, private in pairs:
                np.copyto(private, place)
        return [shared.read() for shared in self._shared]

    def write(self, index: int, value: Any) -> None:
        values = host(value).view(self._arrays[index].dtype)
        np.copyto(self._arrays[index], values)
        for place, private in self._parts[index] if self._parts else ():
            np.copyto(place, private)


class TileUpdate:
    """See `ChunkUpdate`: an elementwise transformation over the pieces of a chunk."""

    def __init__(self, optimizer: Optimizer, scratch: Scratch) -> None:
        tile, pieces = optimizer.tile(str(scratch.parameters.dtype)), scratch.pieces
        self._program = tile.program
        self._leaves, self._scalars = tile.leaves, optimizer.scalars
        self._owned = [piece.parameter.number for piece in pieces if piece.start == 0]
        self._first = pieces[0].parameter.number
        vectors = [leaf for leaf in tile.leaves if not leaf.is_scalar]
        self._operands: list[_Operand] = []
        short: list[list[Array]] = []
        for piece in pieces:
            place, length, views = scratch.place(piece), piece.stop - piece.start, scratch.state[piece.parameter.number]
            arrays = [scratch.parameters[place], scratch.gradients[place]]
            arrays += [views[leaf.key].view(leaf.dtype) for leaf in vectors]
            whole = length // TILE * TILE
            for at in range(0, whole, TILE):
                self._operands.append(_Operand([array[at : at + TILE] for array in arrays], []))
            if whole < length:
                short.append([array[whole:] for array in arrays])
        self._operands += _packed(short)

    def step(self, before: Array, after: Array, used: Array) -> None:
        """See `ChunkUpdate.step`."""
        row = dict(zip(self._scalars, before[self._first, 1:], strict=False))
        scalars = {leaf.key: np.asarray(row[leaf.key], leaf.dtype) for leaf in self._leaves if leaf.is_scalar}
        results: list[Any] = []
        for operand in self._operands:
            parameters, gradients, *held = operand.read()
            vectors = iter(held)
            state = [scalars[leaf.key] if leaf.is_scalar else next(vectors) for leaf in self._leaves]
            (new,), results = self._program([parameters], [gradients], state)
            operand.write(0, new)
            changed = [value for leaf, value in zip(self._leaves, results, strict=True) if not leaf.is_scalar]
            for index, value in enumerate(changed):
                operand.write(2 + index, value)
        values = {leaf.key: float(value) for leaf, value in zip(self._leaves, results, strict=True) if leaf.is_scalar}
        for number in self._owned:
            after[number, : 1 + len(self._scalars)] = [1.0, *(values[key] for key in self._scalars)]


def _packed(short: list[list[Array]]) -> list[_Operand]:
    """Put short pieces beside each other into private tiles."""
    operands = []
    while short:
        private = [aligned_zeros(TILE, array.dtype) for array in short[0]]
        parts: list[list[tuple[Array, Array]]] = [[] for _ in private]
        at = 0
        while short and at + short[0][0].size <= TILE:
            piece = short.pop(0)
            for pairs, array, target in zip(parts, piece, private, strict=True):
                pairs.append((array, target[at : at + array.size]))
            at += piece[0].size
        operands.append(_Operand(private, parts))
    return operands


class WholeUpdate:
    """See `ChunkUpdate`: any transformation over all parameters at once."""

    def __init__(self, optimizer: Optimizer, scratch: Scratch) -> None:
        self._program = optimizer.whole()
        self._leaves = optimizer.leaves
        self._numbers = [piece.parameter.number for piece in scratch.pieces]
        self._parameters, self._gradients = (
            [Shared(scratch.shaped(span, piece)) for piece in scratch.pieces]
            for span in (scratch.parameters, scratch.gradients)
        )
        held = [(scratch.state[leaf.number or 0][leaf.key], leaf.dtype) for leaf in self._leaves]
        self._state = [Shared(array.reshape(-1).view(dtype).reshape(array.shape)) for array, dtype in held]

    def step(self, before: Array, after: Array, used: Array) -> None:
        """See `ChunkUpdate.step`."""
        state = [held.read() for held in self._state]
        gradients = [gradient.read() for gradient in self._gradients]
        new, state = self._program([parameter.read() for parameter in self._parameters], gradients, state)
        for parameter, value in zip(self._parameters, new, strict=True):
            np.copyto(parameter.array, host(value))
        after[self._numbers, 0] = 1.0
        for held, value in zip(self._state, state, strict=True):
            np.copyto(held.array, host(value))
