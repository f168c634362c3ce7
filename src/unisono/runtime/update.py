"""The update of one slot's slice: sum along the tree, divide, clip, optimizer, redo-logged chunk by chunk.

New values are made in scratch, marked valid, then copied to their place. A successor that finds an odd `progress`
copies again; one that finds an even one makes the chunk again from the partial sums, which stay untouched until
the round is committed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unisono.frameworks.protocol import Array
from unisono.gradients.norms import block_sums, clip_coefficient, total_norm
from unisono.gradients.regions import Chunk
from unisono.memory.segment import aligned, touch
from unisono.memory.words import Words
from unisono.runtime.protocol import Action, Do, mark
from unisono.runtime.state import HostState, vector_span


def tree_sum(tree: Any, leaf: Callable[[int, int], Array]) -> Array:
    """Add along the tree; leaves are (slot, buffer) pairs.

    >>> import numpy as np
    >>> tree_sum((((0, 0), (0, 1)), (1, 0)), lambda slot, buffer: np.array([10.0 * slot + buffer]))
    array([11.])
    """
    if isinstance(tree[0], int):
        return leaf(*tree)
    return tree_sum(tree[0], leaf) + tree_sum(tree[1], leaf)


class _Scratch:
    """One chunk's views: scratch, the places it comes from and goes to, and its optimizer."""

    def __init__(self, state: HostState, adapter: Any, slot: int, chunk: Chunk) -> None:
        layout, segment = state.layout, state.segment
        region = layout.regions[chunk.region]
        raw, at = segment[f"scratch/{slot}"], 0

        def carve(dtype: str, count: int) -> Array:
            nonlocal at
            size = count * np.dtype(dtype).itemsize
            view = raw[at : at + size].view(dtype)
            at += aligned(size)
            return view

        length = chunk.stop - chunk.start
        self.gradients = carve(region.dtype, length)
        parameters = carve(region.dtype, length)
        home = segment[f"parameters/{region.index}"][chunk.start : chunk.stop]
        self.pairs: list[tuple[Array, Array]] = [(home, parameters)]
        views: dict[int, dict[str, Array]] = {piece.parameter.number: {} for piece in chunk.pieces}
        for vector in layout.vectors[region.index]:
            span = vector_span(vector, region, chunk)
            part = carve(vector.dtype, span.stop - span.start)
            self.pairs.append((segment[vector.area][span], part))
            for piece in chunk.pieces:
                place = vector.places.get(piece.parameter.number)
                if place is None:
                    continue
                if region.kind == "elementwise":
                    start = place.offset + piece.start - span.start
                    view = part[start : start + piece.stop - piece.start]
                else:
                    view = part[place.offset - span.start : place.end - span.start].reshape(place.shape)
                views[piece.parameter.number][vector.key] = view
        self.chunk = chunk
        self.updater = adapter.chunk_update(region, chunk, parameters, self.gradients, views)

    def load(self) -> None:
        for home, copy in self.pairs:
            np.copyto(copy, home)

    def store(self) -> None:
        for home, copy in self.pairs:
            np.copyto(home, copy)


class Update:
    """The update of one slot.

    Args:
        state: the host's shared state.
        adapter: the framework's adapter.
        slot: whose slice.
        chunks: the slice.
    """

    def __init__(self, state: HostState, adapter: Any, slot: int, chunks: Sequence[Chunk]) -> None:
        self._state, self._slot = state, slot
        self._chunks = [_Scratch(state, adapter, slot, chunk) for chunk in chunks]
        self._norms = state.layout.norms
        self._temporaries: list[Array] = []

    def publish_norms(self, tree: Any, weight: float) -> None:
        """Write Σ g² of each block of the slice.

        Args:
            tree: the sum to form; leaves are (slot, gradient buffer).
            weight: the global weight that the gradient is divided by.
        """
        norms = self._state.segment["norms"]
        for scratch in self._chunks:
            self._sum(scratch, tree, weight)
            for piece in scratch.chunk.pieces:
                start = piece.parameter.offset + piece.start - scratch.chunk.start
                block_sums(scratch.gradients[start : start + piece.stop - piece.start], norms[self._norms.span(piece)])

    def touch(self) -> None:
        """Map the memory that the update works on into this process."""
        for scratch in self._chunks:
            for array in (scratch.gradients, *itertools.chain.from_iterable(scratch.pairs)):
                touch(array)

    def norm(self) -> float:
        """The global gradient norm, once every slot has published its blocks'."""
        return total_norm(self._state.segment["norms"])

    def apply(
        self, round: int, step: int, tree: Any, weight: float, clip_norm: float | None, action: Action,
        progress: Words, phase: Callable[[str, int, int, int], None],
    ) -> None:  # fmt: skip
        """Update the slice.

        Args:
            round, step: where the run is.
            tree, weight: as in `publish_norms`.
            clip_norm: limit on the global norm, or None.
            action: UPDATE or COPY_AGAIN, and the chunk to begin with.
            progress: the slots' words.
            phase: see `Worker`.
        """
        segment = self._state.segment
        used = np.bitwise_or.reduce(segment["used"], axis=0)
        before, after = segment["scalars"][step & 1], segment["scalars"][(step + 1) & 1]
        factor = 1.0 if clip_norm is None else clip_coefficient(self.norm(), clip_norm)
        valid = action.do is Do.COPY_AGAIN
        for index in range(action.chunk, len(self._chunks)):
            scratch = self._chunks[index]
            if not valid:
                self._sum(scratch, tree, weight)
                if factor != 1.0:
                    np.multiply(scratch.gradients, scratch.gradients.dtype.type(factor), out=scratch.gradients)
                scratch.load()
                scratch.updater.step(before, after, used)
                phase("made", round, self._slot, index)
                progress.put(self._slot, mark(round, 2 * index + 1))
            phase("marked", round, self._slot, index)
            scratch.store()
            phase("stored", round, self._slot, index)
            progress.put(self._slot, mark(round, 2 * index + 2))
            valid = False

    def _sum(self, scratch: _Scratch, tree: Any, weight: float) -> None:
        """scratch.gradients = (tree sum) / weight."""
        chunk = scratch.chunk
        out = scratch.gradients

        def leaf(slot: int, buffer: int) -> Array:
            return self._state.segment[f"gradients/{slot}/{chunk.region}"][buffer, chunk.start : chunk.stop]

        def add(node: Any, target: Array, depth: int) -> Array:
            if isinstance(node[0], int):
                return leaf(*node)
            left = add(node[0], target, depth)
            right = add(node[1], self._temporary(depth, target), depth + 1)
            return np.add(left, right, out=target)

        np.divide(add(tree, out, 0), out.dtype.type(weight), out=out)

    def _temporary(self, depth: int, like: Array) -> Array:
        while len(self._temporaries) <= depth:
            self._temporaries.append(np.empty(0, np.uint8))
        if self._temporaries[depth].size < like.nbytes:
            self._temporaries[depth] = np.empty(like.nbytes, np.uint8)
        return self._temporaries[depth][: like.nbytes].view(like.dtype)
