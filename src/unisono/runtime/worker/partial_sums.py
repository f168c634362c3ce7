"""A slot's partial sums: where the gradients and buffers of its microbatches go, and which of them are its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from unisono.frameworks.protocol import Array
from unisono.gradients.arithmetic import add
from unisono.gradients.tree import FoldStep
from unisono.memory.segment import touch
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import FLOATING, averaged_places


class PartialSums:
    """The partial sums of a pipe, seen by one of its slots: they share the memory and write disjoint parts.

    Args:
        state: the host's shared state.
        adapter: the framework's adapter.
        pipe: which pipe.
        parameters: the trained parameters that are the slot's own.
        buffers: the buffers that are.
    """

    def __init__(
        self, state: HostState, adapter: Any, pipe: int, parameters: Sequence[int], buffers: Sequence[int]
    ) -> None:
        self._state, self._segment, self._layout = state, state.segment, state.layout
        self._pipe, self._buffers = pipe, buffers
        self._spans = self._own(set(parameters))
        self._places = averaged_places(state.layout.description.buffers)
        self._sums, self._changed = self._segment[f"buffer_sums/{pipe}"], self._segment[f"buffer_changed/{pipe}"]
        self.gradients = [self._destinations(adapter, index) for index in range(self._layout.gradient_buffers)]
        """By gradient buffer: what `Adapter.gradient` and `Stage.backward` write into."""

    def _own(self, parameters: set[int]) -> list[tuple[int, slice]]:
        """(region, span) of neighbours among the own parameters."""
        spans: list[tuple[int, slice]] = []
        for region in self._layout.regions:
            before = False
            for parameter in region.parameters:
                own = parameter.number in parameters
                if own and before:
                    spans[-1] = (region.index, slice(spans[-1][1].start, parameter.end))
                elif own:
                    spans.append((region.index, slice(parameter.offset, parameter.end)))
                before = own
        return spans

    def _destinations(self, adapter: Any, index: int) -> Any:
        return adapter.gradient_buffers({
            parameter.number: parameter.of(self._vector(region.index)[index])
            for region in self._layout.regions for parameter in region.parameters
        })  # fmt: skip

    def _vector(self, region: int) -> Array:
        return self._state.gradients(self._pipe, region)

    def _parts(self, buffer: int, gradients: bool = True) -> Iterator[Array]:
        """The slot's own part of a buffer's sums: gradients, the buffers' elements, whether they changed."""
        if gradients:
            yield from (self._vector(region)[buffer][span] for region, span in self._spans)
        for index in self._buffers:
            yield self._sums[buffer][self._places[index]]
            yield self._changed[buffer][index : index + 1]

    def destination(self, step: FoldStep, add: bool) -> Any:
        """Where a microbatch's gradient goes."""
        return self.gradients[step.destination(add)]

    def fold(self, step: FoldStep, added: bool) -> None:
        """Do a microbatch's additions.

        Args:
            step: its additions.
            added: whether the gradients' first one has been done.
        """
        for place, (into, other) in enumerate(step.additions):
            gradients = not (added and place == 0)
            for target, addend in zip(self._parts(into, gradients), self._parts(other, gradients), strict=True):
                add(target, addend, target)

    def keep_buffers(
        self, found: Sequence[Array], base: Sequence[Array], samples: int, microbatch: int, buffer: int
    ) -> None:
        """Leave n·b of the floating-point buffers, and the first microbatch's others.

        Args:
            found: the slot's own buffers after the forward pass.
            base: all buffers before it.
            samples: samples of the microbatch.
            microbatch: its number.
            buffer: where the sums go.
        """
        for index, value in zip(self._buffers, found, strict=True):
            before, place = base[index], self._places[index]
            self._changed[buffer, index] = value.tobytes() != before.tobytes()
            if self._layout.description.buffers[index].dtype in FLOATING:
                self._sums[buffer, place] = value.ravel()
                self._sums[buffer, place] *= samples
            if microbatch == 0:
                self._segment[f"buffer_first/{index}"][...] = value

    def touch(self, buffers: Iterable[int]) -> None:
        """Map the memory of these buffers into this process."""
        for part in chain.from_iterable(self._parts(buffer) for buffer in buffers):
            touch(part)
