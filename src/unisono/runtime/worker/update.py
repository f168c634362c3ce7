"""The update of one slot's slice: sum along the tree, divide, clip, optimizer, undo-logged chunk by chunk.

A chunk's old values are copied to scratch and marked valid; then the optimizer works in place. A successor that finds
an odd `progress` copies the old values back and does the chunk again from the partial sums, which stay untouched until
the round is committed. (New values in scratch, copied home, would be as safe and one pass over memory slower.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from unisono.errors import JobError
from unisono.frameworks.lossrules import not_finite
from unisono.frameworks.protocol import Array, Scratch
from unisono.gradients.adding import TreeAdder
from unisono.gradients.arithmetic import all_finite, any_of, copy, divide, scale
from unisono.gradients.norms import block_sums, clip_coefficient, total_norm
from unisono.gradients.regions import Chunk
from unisono.memory.segment import aligned, touch
from unisono.memory.words import Words
from unisono.runtime.rules.plan import Action, Do, mark
from unisono.runtime.rules.request import Phase, no_phase
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.optimizer_vectors import vector_span


class _Guarded:
    """One chunk: its parameters and state in place, their old values in scratch, and its optimizer."""

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
        parameters = state.vector(region)[chunk.start : chunk.stop]
        self.pairs: list[tuple[Array, Array]] = [(parameters, carve(region.dtype, length))]
        views: dict[int, dict[str, Array]] = {piece.parameter.number: {} for piece in chunk.pieces}
        for vector in layout.vectors[region.index]:
            span, values = vector_span(vector, region, chunk), segment[vector.area]
            self.pairs.append((values[span], carve(vector.dtype, span.stop - span.start)))
            for piece in chunk.pieces:
                place = vector.places.get(piece.parameter.number)
                if place is None:
                    continue
                if region.kind == "elementwise":
                    view = values[place.offset + piece.start : place.offset + piece.stop]
                else:
                    view = place.of(values)
                views[piece.parameter.number][vector.key] = view
        self.chunk = chunk
        self.updater = adapter.chunk_update(Scratch(region, chunk, parameters, self.gradients, views))

    def save(self) -> None:
        for values, old in self.pairs:
            copy(values, old)

    def restore(self) -> None:
        for values, old in self.pairs:
            copy(old, values)


class Update:
    """The update of one slot.

    Args:
        state: the host's shared state.
        adapter: the framework's adapter.
        slot: whose slice.
        chunks: the slice.
        clip_norm: limit on the global norm, or None.
        phase: see `Context`.
    """

    def __init__(
        self, state: HostState, adapter: Any, slot: int, chunks: Sequence[Chunk], clip_norm: float | None = None,
        phase: Phase = no_phase,
    ) -> None:  # fmt: skip
        self._state, self._slot, self._clip_norm, self._phase = state, slot, clip_norm, phase
        self._chunks = [_Guarded(state, adapter, slot, chunk) for chunk in chunks]
        self._norms = state.layout.norms
        self._adder = TreeAdder()

    def publish_norms(self, tree: Any, weight: float) -> None:
        """Write Σ g² of each block of the slice.

        Args:
            tree: the sum to form; leaves are (pipe, gradient buffer).
            weight: the global weight that the gradient is divided by; 0 = there is no gradient.

        Raises:
            JobError: a gradient is not finite.
        """
        norms = self._state.segment["norms"]
        for chunk in self._chunks:
            if weight == 0:
                for piece in chunk.chunk.pieces:
                    norms[self._norms.span(piece)] = 0
                continue
            self._sum(chunk, tree, weight)
            for piece in chunk.chunk.pieces:
                start = piece.parameter.offset + piece.start - chunk.chunk.start
                block_sums(chunk.gradients[start : start + piece.stop - piece.start], norms[self._norms.span(piece)])

    def touch(self) -> None:
        """Map the memory that the update works on into this process."""
        for chunk in self._chunks:
            for array in (chunk.gradients, *itertools.chain.from_iterable(chunk.pairs)):
                touch(array)

    def norm(self) -> float:
        """The global gradient norm, once every slot has published its blocks'."""
        return total_norm(self._state.segment["norms"])

    def apply(self, round_: Round, tree: Any, weight: float, action: Action, progress: Words) -> None:
        """Update the slice.

        Args:
            round_: where the run is.
            tree, weight: as in `publish_norms`.
            action: UPDATE or RESTORE, the chunk to begin with and the one to stop before.
            progress: the slots' words.

        Raises:
            JobError: a gradient is not finite. Its chunk is as it was, and the round can't be committed any more.
        """
        if weight == 0:
            self._pass_over(round_, action, progress)
            return
        used = any_of(self._state.segment["used"])
        before, after = self._state.scalars(round_.step), self._state.scalars(round_.step + 1)
        factor = 1.0 if self._clip_norm is None else clip_coefficient(self.norm(), self._clip_norm)
        begun = action.do is Do.RESTORE
        for index in range(action.chunk, action.stop):
            chunk = self._chunks[index]
            self._sum(chunk, tree, weight)  # before the values that the optimizer reads next come into the cache
            if factor != 1.0:
                scale(chunk.gradients, factor)
            if begun:
                chunk.restore()
            else:
                chunk.save()
                self._phase("saved", round_.number, self._slot, index)
                progress.put(self._slot, mark(round_.number, 2 * index + 1))
            self._phase("marked", round_.number, self._slot, index)
            chunk.updater.step(before, after, used)
            self._phase("updated", round_.number, self._slot, index)
            progress.put(self._slot, mark(round_.number, 2 * index + 2))
            begun = False

    def _pass_over(self, round_: Round, action: Action, progress: Words) -> None:
        """A step of weight 0 changes nothing: what is double-buffered is copied."""
        before, after = self._state.scalars(round_.step), self._state.scalars(round_.step + 1)
        for index in range(action.chunk, action.stop):
            for piece in self._chunks[index].chunk.pieces:
                after[piece.parameter.number] = before[piece.parameter.number]
            region = self._state.layout.regions[self._chunks[index].chunk.region]
            tree = self._state.trees.get(region.optimizer)
            if tree is not None:
                tree.repeat(round_.step)
            progress.put(self._slot, mark(round_.number, 2 * index + 2))

    def _sum(self, guarded: _Guarded, tree: Any, weight: float) -> None:
        """gradients = (tree sum) / weight."""
        chunk, out = guarded.chunk, guarded.gradients

        def leaf(pipe: int, buffer: int) -> Array:
            return self._state.gradients(pipe, chunk.region)[buffer, chunk.start : chunk.stop]

        divide(self._adder(tree, leaf, out), weight, out)
        if not all_finite(out):
            raise _not_finite(chunk, out)


def _not_finite(chunk: Chunk, gradients: Array) -> JobError:
    """Names the first parameter whose gradient it is."""
    for piece in chunk.pieces:
        start = piece.parameter.offset + piece.start - chunk.start
        values = gradients[start : start + piece.stop - piece.start]
        if not all_finite(values):
            return not_finite(piece.parameter.name, values)
    raise AssertionError("what lies between parameters is 0")
