"""How far backward passes have come: what may be read early, and what is noticed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from products import DESCRIPTION, host_state
from unisono.runtime.reach import Reach, Reached
from unisono.runtime.state import Control, HostState

TOTAL = len(DESCRIPTION.parameters)
TRAINED = [number for number, owner in enumerate(DESCRIPTION.owners) if owner is not None]


@pytest.fixture
def state() -> Iterator[HostState]:
    with host_state(2, 4, 4) as state:
        yield state


@given(st.permutations(TRAINED))
def test_what_is_said_to_be_complete_is_complete(order: list[int]) -> None:
    with host_state(2, 4, 4) as state:
        reach = Reach(state)
        reach.begin(1, 5)
        listen, came = reach.listener(1), set()
        for number in order:
            listen(number)
            came.add(number)
            said = range(TOTAL - reach.now(1).gradients, TOTAL)
            assert came.issuperset(number for number in said if number in TRAINED)
        assert reach.now(1) == Reached(5, 1, TOTAL)
        assert not state.control.get(Control.WHOLE)


def test_a_successor_is_another_attempt_and_has_nothing_yet(state: HostState) -> None:
    reach = Reach(state)
    reach.begin(0, 3)
    reach.whole(0)
    before = reach.now(0)
    reach.begin(0, 3)
    assert reach.now(0) == Reached(3, 2, 0)
    assert reach.now(0).word() > before.word()
    reach.begin(0, 4)
    assert reach.now(0) == Reached(4, 1, 0)


def test_a_gradient_that_comes_twice_is_noticed(state: HostState) -> None:
    reach = Reach(state)
    reach.begin(0, 0)
    listen = reach.listener(0)
    listen(TRAINED[-1])
    assert not state.control.get(Control.WHOLE)
    listen(TRAINED[-1])
    assert state.control.get(Control.WHOLE)


def test_nothing_of_an_earlier_generation_is_left(state: HostState) -> None:
    reach = Reach(state)
    reach.begin(0, 3)
    reach.whole(0)
    state.begin(3)
    assert reach.now(0) == Reached(0, 0, 0)
