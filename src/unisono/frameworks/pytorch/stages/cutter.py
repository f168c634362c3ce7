"""A model's units and stages: recordings by signature, boundaries, programs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from unisono.errors import UsageError
from unisono.frameworks.cuts import costs
from unisono.frameworks.nests import leaves
from unisono.frameworks.protocol import Indices, Passed, Unit
from unisono.frameworks.pytorch.passes import Passes
from unisono.frameworks.pytorch.stages.boundaries import BY_HAND, Marks, at_split_points, crossing, narrow
from unisono.frameworks.pytorch.stages.operations import ReadsValueError, Recording, Slot
from unisono.frameworks.pytorch.stages.pieces import record_pieces
from unisono.frameworks.pytorch.stages.recorder import Recorder
from unisono.frameworks.pytorch.stages.replay import compiled
from unisono.frameworks.pytorch.stages.segment import Segment
from unisono.frameworks.pytorch.stages.stage import StageProgram, TorchStage
from unisono.frameworks.pytorch.stages.uses import Uses, untouched

RECORDINGS_KEPT = 64

Made = TypeVar("Made")


class Cutter:
    """Cuts one adapter's model.

    Args:
        passes: the adapter's.
    """

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._opaque: set[str] = set()
        self._recordings: dict[Any, Recording] = {}
        self._marks: Marks | None = None

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        """See `Adapter.units`."""
        with untouched(self._passes.model):
            recording = self._recording(batch[0])
            self._mark(recording)
            bounds, parameters = self._bounds(recording), self._passes.parameters
            into = {number: torch.empty_like(parameters[number]) for number in self._passes.trained}
            used = np.zeros(len(parameters), np.uint8)
            measured = costs(self.stage, len(bounds) - 1, batch, samples, into, used, (), self._counted)
        firsts = [recording.operations[first] for first in bounds[:-1]]
        return tuple(
            Unit(first.scope or first.name, tuple(sorted(numbers)), tuple(sorted(indices)), *cost)
            for first, (numbers, indices), cost in zip(firsts, self._uses(recording, bounds), measured, strict=True)
        )

    def _counted(self, forward: Callable[[], Passed]) -> tuple[Passed, int]:
        """A forward pass, and the bytes of the storages that it keeps, parameters left out, and of what it sends."""
        found: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            passed = forward()
        for parameter in self._passes.parameters:
            found.pop(parameter.untyped_storage()._cdata, None)
        return passed, sum((*found.values(), *(array.nbytes for array in passed.sent.arrays if array is not None)))

    def stage(self, cuts: Indices, index: int, recompute: bool) -> TorchStage:
        """See `Adapter.stage`."""
        if self._marks is None:
            inputs, _ = self._passes.example()
            self._mark(self._recording(inputs))
        programs: dict[Any, StageProgram] = {}
        units = range(cuts[index], cuts[index + 1] + 1) if recompute else cuts[index : index + 2]

        def program(inputs: Any) -> StageProgram:
            return _known(programs, self._signature(inputs), lambda: self._program(inputs, units))

        recording = next(iter(self._recordings.values()))
        bounds = self._bounds(recording)
        uses = self._uses(recording, [bounds[unit] for unit in cuts])
        earlier = set[int]().union(*(parameters for parameters, _ in uses[:index]))
        owned = (uses[index][0] - earlier) & self._passes.trained
        buffers = tuple(sorted(uses[index][1]))
        return TorchStage(self._passes, program, tuple(sorted(owned)), buffers, recompute)

    # -- recording -----------------------------------------------------------------------------------------

    def _signature(self, inputs: Any) -> Any:
        if self._passes.job.stages is not None:
            return None  # a piece is computed as it is
        if isinstance(inputs, Tensor):
            return inputs.shape, inputs.dtype
        return tuple(
            (path, leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else (path, repr(leaf))
            for path, leaf in leaves(inputs)
        )

    def _recording(self, inputs: Any) -> Recording:
        return _known(self._recordings, self._signature(inputs), lambda: self._record(inputs))

    def _record(self, inputs: Any) -> Recording:
        passes = self._passes
        passes.modes.train()
        cached_casts = passes.job.precision == "bfloat16"
        while True:
            uses = Uses(passes.parameters, passes.buffers)
            try:
                with untouched(passes.model), passes.explained(inputs, passes.trained), passes.autocast():
                    if passes.job.stages is not None:
                        return record_pieces(passes.job.stages, passes.model, inputs, uses, cached_casts)
                    recorder = Recorder(passes.model, uses, self._opaque, inputs)
                    return recorder.record(lambda: passes.forward(inputs), cached_casts)
            except ReadsValueError as reads:
                if not reads.scope:
                    raise UsageError(
                        "a model that is cut may not read what its tensors hold, nor call a torch.autograd.Function, "
                        f"outside of its submodules; it does at {reads.place} ({reads.what}). " + BY_HAND
                    ) from reads
                self._opaque.add(reads.scope)

    # -- boundaries ----------------------------------------------------------------------------------------

    def _mark(self, recording: Recording) -> None:
        points = self._passes.job.split_points
        if self._passes.job.stages is not None:
            boundaries = tuple(p for p in range(1, len(recording.operations)) if p not in recording.barred)
        elif points is not None:
            names = [name for name, _ in self._passes.model.named_modules(remove_duplicate=False)]
            boundaries = at_split_points(recording, points, names)
        else:
            boundaries = narrow(recording)
        if not boundaries:
            why = next(iter(recording.barred.values()), "it is a single operation")
            raise UsageError(f"the model can't be cut anywhere: {why}. " + BY_HAND)
        self._marks = Marks.of(recording, boundaries)

    def _bounds(self, recording: Recording) -> Indices:
        assert self._marks is not None
        return (0, *self._marks.within(recording), len(recording.operations))

    def _uses(self, recording: Recording, bounds: Sequence[int]) -> list[tuple[set[int], set[int]]]:
        """The parameters and buffers that each part of the model uses; the first one has those that none does."""
        uses = [(recording.parameters(a, b), recording.buffers(a, b)) for a, b in itertools.pairwise(bounds)]
        buffers = {index for index, place in enumerate(self._passes.buffers) if place.tensor is not None}
        uses[0][0].update(set(range(len(self._passes.parameters))) - recording.parameters())
        uses[0][1].update(buffers - recording.buffers())
        return uses

    # -- programs ------------------------------------------------------------------------------------------

    def _program(self, inputs: Any, units: Sequence[int]) -> StageProgram:
        recording = self._recording(inputs)
        bounds, slots = self._bounds(recording), crossing(recording)
        edges = [bounds[unit] for unit in units]
        first, last = edges[0], edges[-1]
        segments = tuple(self._segment(recording, slots, a, b) for a, b in itertools.pairwise(edges))
        received = None
        if recording.facts:
            facts = [recording.facts[slot] for slot in slots[first]]
            received = tuple((fact.dtype, fact.needs) for fact in facts) if first else ()
        drawn_after = recording.draws(0, last) if last < len(recording.operations) else ()
        borrowed, lent = self._shared(recording, first), self._shared(recording, last)
        return StageProgram(segments, received, recording.draws(0, first), drawn_after, borrowed, lent)

    def _segment(self, recording: Recording, slots: Sequence[Indices], first: int, last: int) -> Segment:
        end = last == len(recording.operations)
        given = recording.outputs if end else tuple(Slot(number) for number in slots[last])
        parameters = recording.parameters(first, last) & self._passes.trained
        return Segment(
            self._passes,
            compiled(recording.operations[first:last], slots[first], given),
            not recording.facts,
            end,
            self._passes.job.precision == "bfloat16",
            tuple(sorted(parameters)),
            frozenset(parameters - recording.parameters(0, first)),
            tuple(self._passes.buffers[n] for n in sorted(recording.buffers(first, last) & recording.written)),
            recording.draws(first, last),
        )

    def _shared(self, recording: Recording, boundary: int) -> Indices:
        both = recording.parameters(0, boundary) & recording.parameters(boundary)
        return tuple(sorted(both & self._passes.trained))


def _known(known: dict[Any, Made], key: Any, make: Callable[[], Made]) -> Made:
    """What is known by a key, or made now; what was known goes when it is too much."""
    if key not in known:
        if len(known) >= RECORDINGS_KEPT:
            known.clear()
        known[key] = make()
    return known[key]
