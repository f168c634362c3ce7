"""Schedules are a function of the rounds done: whoever catches up, in whatever stretches, has stepped them alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unisono.partition.batches import Batches
from unisono.runtime.program import EvaluationSet, Program
from unisono.runtime.schedule import Schedule

PROGRAM = Program(Batches(8, 4, 2, False), 4, None, (EvaluationSet("one", 5), EvaluationSet("two", 4)))
LOSSES = np.array([0.5, 0.25])


class Adapter:
    """Notes what its schedules are told."""

    def __init__(self) -> None:
        self.rounds_seen = 0
        self.told: list[Any] = []

    def advance_schedule(self) -> None:
        self.told.append("step")
        assert len(self.told) <= PROGRAM.rounds, "it goes on for ever"

    def advance_plateau(self, loss: float) -> None:
        self.told.append(loss)


def test_every_step_is_told_and_the_first_set_s_loss_of_every_evaluation() -> None:
    adapter = Adapter()
    Schedule(PROGRAM, adapter, LOSSES).catch_up(PROGRAM.rounds)
    assert adapter.told == ["step", "step", 0.5, "step", "step", 0.25]
    assert type(adapter.told[2]) is float


@given(st.lists(st.integers(0, PROGRAM.rounds)))
def test_stretches_do_not_matter(stops: list[int]) -> None:
    adapter, whole = Adapter(), Adapter()
    schedule, furthest = Schedule(PROGRAM, adapter, LOSSES), 0
    for stop in stops:
        schedule.catch_up(stop)
        furthest = max(furthest, stop)
        assert adapter.rounds_seen == furthest
    Schedule(PROGRAM, whole, LOSSES).catch_up(max(stops, default=0))
    assert adapter.told == whole.told
