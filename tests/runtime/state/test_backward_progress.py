"""How far backward passes have come: what may be read early, and what is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from products import DESCRIPTION, host_state, shape
from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.runtime.state.backward_progress import BackwardProgress, Progress
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import host_layout

TOTAL = len(DESCRIPTION.parameters)
TRAINED = [number for number, owner in enumerate(DESCRIPTION.owners) if owner is not None]


@pytest.fixture
def state() -> Iterator[HostState]:
    with host_state(2, 4, 4) as state:
        yield state


@given(st.permutations(TRAINED))
def test_what_is_said_to_be_complete_is_complete(order: list[int]) -> None:
    with host_state(2, 4, 4) as state:
        progress = BackwardProgress(state)
        progress.begin(1, 5)
        listen, came = progress.listener(1), set()
        for number in order:
            listen(number)
            came.add(number)
            said = range(TOTAL - progress.now(1).gradients, TOTAL)
            assert came.issuperset(number for number in said if number in TRAINED)
        assert progress.now(1) == Progress(5, 1, TOTAL)
        assert not state.control.get(Control.WHOLE)


def test_a_successor_is_another_attempt_and_has_nothing_yet(state: HostState) -> None:
    progress = BackwardProgress(state)
    progress.begin(0, 3)
    progress.whole(0)
    before = progress.now(0)
    progress.begin(0, 3)
    assert progress.now(0) == Progress(3, 2, 0)
    assert progress.now(0).word() > before.word()
    progress.begin(0, 4)
    assert progress.now(0) == Progress(4, 1, 0)


def test_a_gradient_that_comes_twice_is_noticed(state: HostState) -> None:
    progress = BackwardProgress(state)
    progress.begin(0, 0)
    listen = progress.listener(0)
    listen(TRAINED[-1])
    assert not state.control.get(Control.WHOLE)
    listen(TRAINED[-1])
    assert state.control.get(Control.WHOLE) == 1


def test_nothing_of_an_earlier_generation_is_left(state: HostState) -> None:
    progress = BackwardProgress(state)
    progress.begin(0, 3)
    progress.whole(0)
    state.begin(3)
    assert progress.now(0) == Progress(0, 0, 0)


@example(2**31 - 1, 2**12 - 1, 2**20 - 1)
@given(st.integers(0, 2**31 - 1), st.integers(0, 2**12 - 1), st.integers(0, 2**20 - 1))
def test_a_word_holds_what_there_can_be(round_: int, attempt: int, gradients: int) -> None:
    reached = Progress(round_, attempt, gradients)
    assert Progress.of(reached.word()) == reached
    assert reached.word() < 2**63


def test_attempts_are_counted_round_and_round(state: HostState) -> None:
    progress = BackwardProgress(state)
    Words(state.segment, "backward_progress", 0.0).publish(1, Progress(3, 2**12 - 1, 2).word())
    progress.begin(1, 3)
    assert progress.now(1) == Progress(3, 0, 0)
    assert progress.now(0) == Progress(0, 0, 0)


def test_what_is_not_trained_is_not_waited_for() -> None:
    owners = (None, 0, None, 0, None)
    description = replace(DESCRIPTION, parameters=(*DESCRIPTION.parameters, DESCRIPTION.parameters[0]), owners=owners)
    layout = host_layout(description, shape(2, 1, 4))
    progress = BackwardProgress(HostState(layout, Segment.create(layout.segment)))
    said = []
    for order in ((1, 3), (3, 1)):
        progress.begin(1, 5)
        listen = progress.listener(1)
        for number in order:
            listen(number)
            said.append(progress.now(1).gradients)
    assert said == [0, 5, 3, 5]


def test_who_waits_sleeps_until_there_is_more(state: HostState, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(Words, "wait", lambda words, index, value: waited.append((index, value)))
    progress = BackwardProgress(state)
    progress.wait(1, Progress(3, 1, 2))
    assert waited == [(1, Progress(3, 1, 2).word() + 1)]
