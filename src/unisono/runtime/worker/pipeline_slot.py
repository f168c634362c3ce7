"""The passes of one slot through its stage: one forward, one backward, with neighbours that do the same.

What a stage hands over lies in shared memory, one entry a stage and microbatch, until the round is over. So a
successor finds all that the neighbours have handed over so far and does the slot's passes again from the first;
what it hands over once more are the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from unisono.frameworks.protocol import Array, Crossing, Passed
from unisono.gradients.tree import FoldStep
from unisono.memory.crossing import read, write
from unisono.memory.words import Words
from unisono.partition.stages import schedule
from unisono.runtime.rules.plan import Plan
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.control import HANDED
from unisono.runtime.worker.context import Context
from unisono.runtime.worker.microbatch import Microbatches
from unisono.runtime.worker.partial_sums import PartialSums


class Awaited(NamedTuple):
    """The word that a slot waits for: its area, its slot, its least value."""

    words: str
    slot: int
    value: int


@dataclass
class _InFlight:
    """A microbatch between its two passes."""

    passed: Passed
    samples: int
    buffers: Sequence[Array]


@dataclass
class StageWork:
    """The passes of a slot.

    Args:
        context: what the work needs.
        slot: which slot.
        microbatches: its microbatches.
    """

    context: Context
    slot: int
    microbatches: Microbatches

    def __post_init__(self) -> None:
        self._state, self._segment = self.context.state, self.context.state.segment
        self._stages = len(self.context.cuts) - 1
        pipe, self._index = divmod(self.slot, self._stages)
        self._stage = self.context.adapter.stage(self.context.cuts, self._index, self.context.request.recompute)
        self.sums = PartialSums(
            self.context.state, self.context.adapter, pipe, self._stage.parameters, self._stage.buffers
        )
        self._used = self._segment["used"][self.slot]
        self._words = {name: Words(self._segment, name) for name in HANDED}

    def passes(self, plan: Plan, round_: Round, steps: Sequence[FoldStep], adds: bool) -> Iterator[Awaited]:
        """Do every pass of a round; yields what has to be waited for, again and again until it is there.

        Args:
            plan, round_: the round.
            steps: the microbatches in order, and how their sums are folded.
            adds: whether gradients are added at once to what they are added to.

        Raises:
            GradientInParts: they cannot be.
        """
        in_flight: dict[int, _InFlight] = {}
        completed = time.perf_counter()
        for do, index in schedule(self._index, self._stages, len(steps)):
            step, forward = steps[index], do == "forward"
            where, batch = f"step {round_.step + 1}, microbatch {step.microbatch}", None
            if forward:  # while the neighbour computes
                self.microbatches.at(plan, step.microbatch)
                with self.microbatches.placed(where):
                    batch = self.microbatches.take(round_, step.microbatch)
            yield from self._neighbours(plan, forward, index)
            self.microbatches.at(plan, step.microbatch)
            self.context.request.phase(do, plan.round, self.slot, step.microbatch)
            mark = self._mark(plan, index)
            with self.microbatches.placed(where):
                if forward:
                    in_flight[index] = self._forward(round_, step.microbatch, batch, mark)
                else:
                    self._backward(round_, step, in_flight.pop(index), mark, completed, adds and bool(step.additions))
                    completed = time.perf_counter()

    def _neighbours(self, plan: Plan, forward: bool, index: int) -> Iterator[Awaited]:
        """What a pass of the microbatch needs of the stage before (forward) or after (backward)."""
        edge = 0 if forward else self._stages - 1
        if self._index == edge:
            return
        name, slot = ("forwarded", self.slot - 1) if forward else ("returned", self.slot + 1)
        value = self._mark(plan, index)
        self.microbatches.awaits(name, slot, value)
        self.microbatches.at(plan, -1)
        while self._words[name].get(slot) < value:
            yield Awaited(name, slot, value)

    def _mark(self, plan: Plan, index: int) -> int:
        return plan.round * self._state.layout.shape.passes + index + 1

    def _forward(self, round_: Round, microbatch: int, batch: Any, mark: int) -> _InFlight:
        samples = self.context.program.samples(round_, microbatch)
        received = Crossing() if self._index == 0 else self._received("forward", self._index - 1, microbatch)
        with self.microbatches.timed("forward", microbatch):
            self.microbatches.make_ready(round_, microbatch)
            passed = self._stage.forward(batch, samples, received)
            if self._index < self._stages - 1:
                self._send("forward", self._index, microbatch, passed.sent, "forwarded", mark)
            live = self.context.adapter.live_buffers()
            return _InFlight(passed, samples, [live[index].copy() for index in self._stage.buffers])

    def _backward(self, round_: Round, step: FoldStep, done: _InFlight, mark: int, completed: float, add: bool) -> None:
        microbatch = step.microbatch
        last = self._index == self._stages - 1
        received = Crossing() if last else self._received("backward", self._index, microbatch)
        with self.microbatches.timed("backward", microbatch):
            base = self.microbatches.load_buffers(round_)  # for what is computed again
            into = self.sums.destination(step, add)
            sent = self._stage.backward(done.passed.kept, received, into, self._used, add)
            if self._index:
                self._send("backward", self._index - 1, microbatch, sent, "returned", mark)
            self.sums.keep_buffers(done.buffers, base, done.samples, microbatch, step.buffer)
            self.sums.fold(step, add)
        if done.passed.measured is not None:
            self.microbatches.enter(microbatch, done.passed.measured, done.samples, time.perf_counter() - completed)

    def _received(self, way: str, stage: int, microbatch: int) -> Crossing:
        return Crossing(*read(self._segment[f"{way}/{stage}/{microbatch}"]))

    def _send(self, way: str, stage: int, microbatch: int, what: Crossing, words: str, mark: int) -> None:
        """Hand over at once, for a neighbour waits; a successor leaves alone what its predecessor has published."""
        write(what.arrays, what.plain, self._segment[f"{way}/{stage}/{microbatch}"])
        if self._words[words].get(self.slot) < mark:
            self._words[words].publish(self.slot, mark)


def stage_work(context: Context, slot: int, slots: int, microbatches: Microbatches) -> StageWork | None:
    """A slot's passes; None where the model is not cut, or the slot fills no pipe."""
    stages = len(context.cuts) - 1
    return StageWork(context, slot, microbatches) if context.cuts and slot < slots // stages * stages else None
