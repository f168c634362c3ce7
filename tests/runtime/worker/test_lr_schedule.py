"""Schedules are a function of the rounds done: whoever catches up, in whatever stretches, has stepped them alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unisono.frameworks.protocol.optimizer import Optimizer
from unisono.partition.batches import Batches
from unisono.runtime.rules.rounds import EvaluationSet, Program
from unisono.runtime.worker.lr_schedule import Schedule

PROGRAM = Program(Batches(8, 4, 2, False), 4, None, (EvaluationSet("one", 5), EvaluationSet("two", 4)))
EVALUATIONS: Any = {"losses": np.array([0.5, 0.25]), "watched": np.array([7.0, 8.0])}


class Adapter(Optimizer):
    """Notes what its schedules are told."""

    chunk_update: Any = None

    def __init__(self) -> None:
        self.told: list[Any] = []

    def advance_schedule(self) -> None:
        self.told.append("step")
        assert len(self.told) <= PROGRAM.rounds, "it goes on for ever"

    def advance_plateau(self, loss: float, watched: float) -> None:
        self.told.append((loss, watched))


def test_every_step_is_told_and_what_every_evaluation_has_left() -> None:
    adapter = Adapter()
    Schedule(PROGRAM, adapter).catch_up(PROGRAM.rounds, EVALUATIONS)
    assert adapter.told == ["step", "step", (0.5, 7.0), "step", "step", (0.25, 8.0)]
    assert all(type(value) is float for value in adapter.told[2])


def test_an_evaluation_after_each_step_is_told_its_own_values() -> None:
    program, adapter = Program(Batches(8, 4, 2, False), 3, 1, (EvaluationSet("one", 5),)), Adapter()
    values: Any = {"losses": np.array([0.5, 0.25, 0.125]), "watched": np.array([7.0, 8.0, 9.0])}
    Schedule(program, adapter).catch_up(program.rounds, values)
    assert adapter.told == ["step", (0.5, 7.0), "step", (0.25, 8.0), "step", (0.125, 9.0)]


@given(st.lists(st.integers(0, PROGRAM.rounds)))
def test_stretches_do_not_matter(stops: list[int]) -> None:
    adapter, whole = Adapter(), Adapter()
    schedule, furthest = Schedule(PROGRAM, adapter), 0
    for stop in stops:
        schedule.catch_up(stop, EVALUATIONS)
        furthest = max(furthest, stop)
        assert schedule.rounds_seen == furthest
    Schedule(PROGRAM, whole).catch_up(max(stops, default=0), EVALUATIONS)
    assert adapter.told == whole.told
