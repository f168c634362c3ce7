"""The passes of a pipe, in any interleaving of its stages and with any deaths: the sums of the uncut model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import jobs
from products import DESCRIPTION, Product, shape
from unisono.gradients.tree import fold
from unisono.memory.segment import Segment
from unisono.partition.batches import Batches
from unisono.runtime.rules.plan import Plan
from unisono.runtime.rules.request import Request
from unisono.runtime.rules.rounds import Program
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import LOSS, host_layout
from unisono.runtime.worker.context import Context
from unisono.runtime.worker.lr_schedule import Schedule
from unisono.runtime.worker.microbatch import Microbatches
from unisono.runtime.worker.pipeline_slot import Awaited, StageWork

CUTS = {1: (0, 4), 2: (0, 1, 4), 3: (0, 1, 3, 4), 4: (0, 1, 2, 3, 4)}
ROUND = 5


class Pipe:
    """A pipe of `stages` slots in this process; each may be replaced by a successor that begins again."""

    def __init__(self, stages: int, microbatches: int, adds: bool = False) -> None:
        layout = host_layout(DESCRIPTION, shape(stages, 1, microbatches))
        self.state = HostState(layout, Segment.create(layout.segment))
        self.stages, self.microbatches, self.adds = stages, microbatches, adds
        self.program = Program(Batches(microbatches, microbatches, microbatches, False), ROUND + 1, None, ())
        self.plan = Plan(ROUND, (0, microbatches), tuple(range(stages)), stages)
        self.fold = fold(0, microbatches, microbatches)
        self.in_flight = [0] * stages
        self.most_in_flight = [0] * stages
        self.slots = [self.begin(slot) for slot in range(stages)]

    def begin(self, slot: int) -> Iterator[Awaited]:
        """A new owner of the slot, with an adapter of its own as in a process of its own."""
        adapter: Any = Product()
        context = Context(
            jobs.make(), Request(1, 1, (0,), phase=self.count), self.program, self.state, adapter,
            Schedule(self.program, adapter), self.take, self.take, {}, CUTS[self.stages],
        )  # fmt: skip
        work = StageWork(context, slot, Microbatches(context, slot))
        self.in_flight[slot] = 0
        round_ = self.program.at(ROUND)
        return work.passes(self.plan, round_, self.fold.steps, self.adds)

    def take(self, round_: Any, microbatch: int) -> float:
        return 1.0 + microbatch

    def count(self, phase: str, round_: int, slot: int, microbatch: int) -> None:
        self.in_flight[slot] += 1 if phase == "forward" else -1
        self.most_in_flight[slot] = max(self.most_in_flight[slot], self.in_flight[slot])

    def results(self) -> tuple[Any, Any, Any]:
        held = sorted(self.fold.final.values())
        gradients, seen = self.state.segment["gradients/0/0"][held], self.state.segment["buffer_sums/0"][held]
        losses = self.state.segment["table"][: self.microbatches, LOSS]
        return gradients.tolist(), seen.tolist(), losses.tolist()

    def close(self) -> None:
        self.state.segment.close()


def run_to_the_end(pipe: Pipe) -> None:
    unfinished = list(range(pipe.stages))
    while unfinished:
        unfinished = [slot for slot in unfinished if next(pipe.slots[slot], None) is not None]


@given(st.integers(1, 4), st.integers(1, 9), st.booleans(), st.data())
def test_any_interleaving_and_any_deaths_leave_the_sums_of_the_uncut_model(
    stages: int, microbatches: int, adds: bool, data: st.DataObject
) -> None:
    whole, pipe = Pipe(1, microbatches), Pipe(stages, microbatches, adds)
    run_to_the_end(whole)
    for slot, dies in data.draw(st.lists(st.tuples(st.integers(0, stages - 1), st.booleans()), max_size=40)):
        if dies:
            pipe.slots[slot] = pipe.begin(slot)
        next(pipe.slots[slot], None)
    run_to_the_end(pipe)
    assert pipe.results() == whole.results()
    assert all(most <= stages - slot for slot, most in enumerate(pipe.most_in_flight))
    for each in (whole, pipe):
        each.close()


@given(st.integers(2, 4), st.integers(2, 6), st.data())
def test_a_successor_hands_over_the_same_bits_again(stages: int, microbatches: int, data: st.DataObject) -> None:
    pipe, whole = Pipe(stages, microbatches), Pipe(1, microbatches)
    run_to_the_end(whole)
    run_to_the_end(pipe)
    names = [name for name in pipe.state.segment.layout.areas if name.split("/")[0] in ("forward", "backward")]
    sent = {name: np.array(pipe.state.segment[name][:4096]) for name in names}
    slot = data.draw(st.integers(0, stages - 1))
    pipe.slots[slot] = pipe.begin(slot)
    run_to_the_end(pipe)
    assert all(np.array_equal(pipe.state.segment[name][:4096], bytes_) for name, bytes_ in sent.items())
    assert pipe.results() == whole.results()
    for each in (whole, pipe):
        each.close()
