"""Rounds by number are the rounds in order, whatever the sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from unisono.partition.batches import Batches
from unisono.runtime.rules.rounds import EvaluationSet, Program, Round


@st.composite
def programs(draw: st.DrawFn) -> Program:
    length = draw(st.integers(1, 30))
    batches = Batches(length, draw(st.integers(1, 12)), draw(st.integers(1, 5)), drop_last=False)
    sets = tuple(EvaluationSet(str(i), n) for i, n in enumerate(draw(st.lists(st.integers(1, 40), max_size=3))))
    return Program(batches, draw(st.integers(0, 12)), draw(st.none() | st.integers(1, 5)), sets)


def in_order(program: Program) -> Iterator[Round]:
    """As a person would write it down."""
    number, every = 0, program.evaluate_every or program.batches.steps_per_epoch
    for step in range(program.steps + 1):
        if step == program.steps or (step and step % every == 0):
            for index, evaluation in enumerate(program.evaluations):
                waves = -(-evaluation.length // program.wave_size)
                for wave in range(waves):
                    yield Round(number, step, index, wave, wave == waves - 1)
                    number += 1
        if step < program.steps:
            yield Round(number, step)
            number += 1


@given(programs())
def test_a_round_by_its_number_is_the_one_in_order(program: Program) -> None:
    expected = list(in_order(program))
    assert [program.next(done) for done in range(program.rounds + 1)] == [*expected, None]
    for round_ in expected:
        counts = [program.samples(round_, m) for m in range(program.batches.microbatches)]
        assert program.nonempty(round_) == sum(1 for count in counts if count)
        assert all(a >= b for a, b in itertools.pairwise(counts))


@given(programs())
def test_positions_between_evaluations_lead_back_to_their_round(program: Program) -> None:
    for number in range(program.rounds + 1):
        step, evaluated = program.position(number)
        started = number == program.rounds or program.at(number).evaluation is None or program.at(number).wave == 0
        first_set = number == program.rounds or program.at(number).evaluation in (None, 0)
        if started and first_set:
            assert program.first_round(step, evaluated) == number


def test_what_is_not_due_yet_has_not_been_evaluated() -> None:
    program = Program(Batches(8, 4, 2, False), 4, None, (EvaluationSet("evaluation", 5),))
    found = [program.position(done) for done in (0, 1, 2, 4, 5, 6, 8)]
    assert found == [(0, False), (1, False), (2, False), (2, True), (3, False), (4, False), (4, True)]


def test_a_run_evaluates_when_it_is_said_to_and_at_its_end() -> None:
    def due(steps: int, every: int | None, sets: int = 1) -> list[int]:
        program = Program(Batches(10, 4, 2, False), steps, every, (EvaluationSet("one", 4),) * sets)
        found = [program.evaluation_step(number) for number in range(program.evaluation_times)]
        for step in range(-1, steps + 2):
            assert program.evaluations_by(step) == sum(at <= step for at in found)
        return found

    assert due(7, None) == [3, 6, 7]  # three steps an epoch
    assert due(6, None) == [3, 6]
    assert due(7, 2) == [2, 4, 6, 7]
    assert due(4, 2, sets=3) == [2, 4]
    assert due(2, 5) == [2]
    assert due(0, None) == [0]
    assert due(7, 2, sets=0) == []
    assert Round(0, 0) == Round(number=0, step=0, evaluation=None, wave=0, last=False)


def test_a_run_without_end_takes_no_memory() -> None:
    program = Program(Batches(10, 4, 2, False), 10**12, 1, (EvaluationSet("one", 4),))
    assert program.at(program.rounds - 1).step == 10**12
    assert program.position(2 * 10**12 - 2) == (10**12 - 1, True)
