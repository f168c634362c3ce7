"""A model's units and stages: recordings by signature, boundaries, programs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from unisono.errors import UsageError
from unisono.frameworks.protocol import Unit
from unisono.frameworks.pytorch.stages import generators
from unisono.frameworks.pytorch.stages.boundaries import BY_HAND, Marks, at_split_points, crossing, narrow
from unisono.frameworks.pytorch.stages.measuring import measured_units
from unisono.frameworks.pytorch.stages.operations import Recording, Slot
from unisono.frameworks.pytorch.stages.parts import Parts
from unisono.frameworks.pytorch.stages.recorder import ReadsValueError, Recorder, untouched
from unisono.frameworks.pytorch.stages.replay import compiled
from unisono.frameworks.pytorch.stages.segment import Segment
from unisono.frameworks.pytorch.stages.stage import StageProgram, TorchStage
from unisono.frameworks.pytorch.stages.trees import leaves

RECORDINGS_KEPT = 64


class Cutter:
    """Cuts one adapter's model.

    Args:
        parts: the adapter's.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._opaque: set[str] = set()
        self._recordings: dict[Any, Recording] = {}
        self._marks: Marks | None = None

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        """See `Adapter.units`."""
        with untouched(self._parts.model):
            recording = self._recording(batch[0])
            self._mark(recording)
            bounds = self._bounds(recording)
            cuts = tuple(range(len(bounds)))
            program = self._program(batch[0], cuts, 0, (0, len(cuts) - 1), True)
            names = [self._name(recording, first) for first in bounds[:-1]]
            uses = [self._uses(recording, a, b) for a, b in itertools.pairwise(bounds)]
            uses[0] = self._with_the_unused(uses)
            return measured_units(self._parts, program, batch, samples, names, uses)

    def stage(self, cuts: tuple[int, ...], index: int, recompute: bool) -> TorchStage:
        """See `Adapter.stage`."""
        if self._marks is None:
            inputs, _ = self._parts.example()
            self._mark(self._recording(inputs))
        programs: dict[Any, StageProgram] = {}

        def program(inputs: Any) -> StageProgram:
            key = self._signature(inputs)
            if key not in programs:
                if len(programs) >= RECORDINGS_KEPT:
                    programs.clear()
                programs[key] = self._program(inputs, cuts, index, (cuts[index], cuts[index + 1]), recompute)
            return programs[key]

        recording = next(iter(self._recordings.values()))
        bounds = self._bounds(recording)
        uses = [self._uses(recording, bounds[a], bounds[b]) for a, b in itertools.pairwise(cuts)]
        uses[0] = self._with_the_unused(uses)
        before = set().union(*(set(parameters) for parameters, _ in uses[:index]))
        parameters = tuple(number for number in uses[index][0] if number not in before)
        return TorchStage(
            self._parts, program, tuple(n for n in parameters if n in self._parts.trained), uses[index][1], recompute
        )

    # -- recording -----------------------------------------------------------------------------------------

    def _signature(self, inputs: Any) -> Any:
        if self._parts.job.stages is not None:
            return None  # a piece is computed as it is
        if isinstance(inputs, torch.Tensor):
            return inputs.shape, inputs.dtype
        return tuple(
            (path, leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else (path, repr(leaf))
            for path, leaf in leaves(inputs)
        )

    def _recording(self, inputs: Any) -> Recording:
        key = self._signature(inputs)
        if key not in self._recordings:
            if len(self._recordings) >= RECORDINGS_KEPT:
                self._recordings.clear()
            self._recordings[key] = self._record(inputs)
        return self._recordings[key]

    def _record(self, inputs: Any) -> Recording:
        parts = self._parts
        parts.modes.train()
        while True:
            recorder = self._recorder(inputs)
            try:
                with untouched(parts.model), parts.explained(inputs, parts.trained), parts.autocast():
                    if parts.job.stages is not None:
                        return recorder.record_pieces(parts.job.stages, parts.model, inputs)
                    return recorder.record(lambda: parts.forward(inputs))
            except ReadsValueError as reads:
                if not reads.scope:
                    raise UsageError(
                        "a model that is cut may not read what its tensors hold, nor call a torch.autograd.Function, "
                        f"outside of its submodules; it does at {reads.place} ({reads.what}). " + BY_HAND
                    ) from reads
                self._opaque.add(reads.scope)

    def _recorder(self, inputs: Any) -> Recorder:
        parts = self._parts
        numbers = {id(parameter): number for number, parameter in enumerate(parts.parameters)}
        return Recorder(parts.model, numbers, parts.buffers, self._opaque, inputs, parts.job.precision == "bfloat16")

    # -- boundaries ----------------------------------------------------------------------------------------

    def _mark(self, recording: Recording) -> None:
        points = self._parts.job.split_points
        if self._parts.job.stages is not None:
            boundaries: tuple[int, ...] = tuple(
                p for p in range(1, len(recording.operations)) if p not in recording.barred
            )
        elif points is not None:
            names = [name for name, _ in self._parts.model.named_modules(remove_duplicate=False)]
            boundaries = at_split_points(recording, points, names)
        else:
            boundaries = narrow(recording)
        if not boundaries:
            why = next(iter(recording.barred.values()), "it is a single operation")
            raise UsageError(f"the model can't be cut anywhere: {why}. " + BY_HAND)
        self._marks = Marks.of(recording, boundaries)

    def _bounds(self, recording: Recording) -> tuple[int, ...]:
        assert self._marks is not None
        return (0, *self._marks.within(recording), len(recording.operations))

    @staticmethod
    def _name(recording: Recording, first: int) -> str:
        operation = recording.operations[first]
        return operation.scope or operation.name

    @staticmethod
    def _uses(recording: Recording, first: int, last: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        among = recording.operations[first:last]
        parameters: set[int] = set().union(*(operation.parameters for operation in among))
        buffers: set[int] = set().union(*(operation.buffers for operation in among))
        return tuple(sorted(parameters)), tuple(sorted(buffers))

    def _with_the_unused(self, uses: Sequence[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the first unit or stage uses, and all that none does."""
        buffers = [index for index, place in enumerate(self._parts.buffers) if place.tensor is not None]
        every = (range(len(self._parts.parameters)), buffers)
        found = []
        for kind, numbers in enumerate(every):
            elsewhere = set().union(*(set(use[kind]) for use in uses))
            found.append(tuple(sorted(set(uses[0][kind]) | (set(numbers) - elsewhere))))
        return found[0], found[1]

    # -- programs ------------------------------------------------------------------------------------------

    def _program(
        self, inputs: Any, cuts: tuple[int, ...], index: int, units: tuple[int, int], by_unit: bool
    ) -> StageProgram:
        recording = self._recording(inputs)
        bounds, slots = self._bounds(recording), crossing(recording)
        ends = range(units[0], units[1] + 1) if by_unit else units
        edges = [bounds[unit] for unit in ends]
        first, last = edges[0], edges[-1]
        segments = tuple(self._segment(recording, slots, a, b) for a, b in itertools.pairwise(edges))
        received = None
        if recording.facts:
            facts = [recording.facts[slot] for slot in slots[first]]
            received = tuple((fact.dtype, fact.needs) for fact in facts) if first else ()
        return StageProgram(
            segments,
            received,
            self._drawn(recording, first),
            self._drawn(recording, last),
            self._shared(recording, first),
            self._shared(recording, last),
        )

    def _segment(self, recording: Recording, slots: Sequence[tuple[int, ...]], first: int, last: int) -> Segment:
        end = last == len(recording.operations)
        given = recording.outputs if end else tuple(Slot(number) for number in slots[last])
        operations = recording.operations[first:last]
        parameters = set(self._uses(recording, first, last)[0]) & self._parts.trained
        earlier = set(self._uses(recording, 0, first)[0])
        return Segment(
            self._parts,
            compiled(operations, slots[first], given),
            not recording.facts,
            end,
            self._parts.job.precision == "bfloat16",
            tuple(sorted(parameters)),
            frozenset(parameters - earlier),
            tuple(self._parts.buffers[n] for n in self._uses(recording, first, last)[1] if n in recording.written),
            self._ordered({kind for operation in operations for kind in operation.draws}),
        )

    def _drawn(self, recording: Recording, boundary: int) -> tuple[str, ...]:
        if boundary == len(recording.operations):
            return ()
        return self._ordered({kind for operation in recording.operations[:boundary] for kind in operation.draws})

    @staticmethod
    def _ordered(kinds: set[str]) -> tuple[str, ...]:
        return tuple(kind for kind in generators.KINDS if kind in kinds)

    def _shared(self, recording: Recording, boundary: int) -> tuple[int, ...]:
        before = set(self._uses(recording, 0, boundary)[0])
        after = set(self._uses(recording, boundary, len(recording.operations))[0])
        return tuple(sorted(before & after & self._parts.trained))
