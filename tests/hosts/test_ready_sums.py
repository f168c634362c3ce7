"""What an exchange may read while workers compute: never what a successor is about to write again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from products import DESCRIPTION, host_state
from unisono.hosts.ready_sums import ReadySums
from unisono.memory.words import Words
from unisono.runtime.rules.plan import Plan
from unisono.runtime.state.backward_progress import BackwardProgress
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_state import HostState
from waiting import limit

PLAN = Plan(2, (0, 2, 4), (0, 1), hosts=(0, 4, 8))
TOTAL = len(DESCRIPTION.parameters)


@pytest.fixture
def state() -> Iterator[HostState]:
    with host_state(2, 8, 8) as state:
        yield state


def begun(state: HostState) -> tuple[ReadySums, BackwardProgress, Words]:
    complete, progress, summed = ReadySums(state), BackwardProgress(state), Words(state.segment, "summed", 0.0)
    for slot in range(2):
        summed.publish(slot, PLAN.round)  # the round before is done
        progress.begin(slot, PLAN.round)
    complete.begin(PLAN)
    return complete, progress, summed


def finish(state: HostState, progress: BackwardProgress, summed: Words) -> None:
    for slot in range(2):
        progress.whole(slot)
        summed.publish(slot, PLAN.round + 1)


def test_it_waits_for_every_slot(state: HostState) -> None:
    complete, progress = ReadySums(state), BackwardProgress(state)
    complete.begin(PLAN)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(complete.wait_for(1)))
    progress.begin(0, PLAN.round)
    progress.whole(0)
    thread.start()
    progress.begin(1, PLAN.round)
    progress.begin(1, PLAN.round)  # whose first attempt has left nothing: who does not wait finds an earlier one
    progress.listener(1)(TOTAL - 1)
    thread.join(limit())
    assert found == [(1, 2)]
    assert complete.holds((1, 2))


class Waits(Exception):
    """Who calls would sleep now."""


@pytest.fixture
def never_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever would sleep says so instead."""

    def wait(self: Words, index: int, value: int, *rest: object) -> bool:
        if self.get(index) < value:
            raise Waits
        return True

    monkeypatch.setattr(Words, "wait", wait)


@pytest.mark.usefixtures("never_asleep")
@pytest.mark.parametrize("late", [0, 1])
def test_where_nothing_is_sent_early_every_slot_has_to_have_summed(state: HostState, late: int) -> None:
    state.control.publish(Control.WHOLE, 1)
    complete, progress, summed = begun(state)
    for slot in range(2):
        progress.whole(slot)
        summed.publish(slot, PLAN.round + (slot != late))
    for wait in (lambda: complete.wait_for(1), complete.wait_for_all):
        with pytest.raises(Waits):
            wait()
    summed.publish(late, PLAN.round + 1)
    assert complete.wait_for(1) == ()


@pytest.mark.usefixtures("never_asleep")
def test_sums_of_the_last_round_are_not_taken_for_this_one_s(state: HostState) -> None:
    complete, progress, summed = ReadySums(state), BackwardProgress(state), Words(state.segment, "summed", 0.0)
    complete.begin(PLAN)
    for slot in range(2):
        progress.begin(slot, PLAN.round - 1)
        progress.whole(slot)
        summed.publish(slot, PLAN.round)
    with pytest.raises(Waits):
        complete.wait_for(1)
    with pytest.raises(Waits):
        complete.wait_for_all()


def test_a_successor_s_beginning_is_noticed(state: HostState) -> None:
    complete, progress, summed = begun(state)
    for slot in range(2):
        progress.whole(slot)
    attempts = complete.wait_for(TOTAL)
    assert attempts
    progress.begin(1, PLAN.round)  # its owner has died before it said that it had summed
    assert not complete.holds(attempts)
    finish(state, progress, summed)
    assert complete.wait_for(TOTAL) == ()
    assert complete.holds(())
    complete.wait_for_all()
    assert complete.was_sound


def test_a_gradient_in_two_parts_is_noticed_and_then_nothing_is_early(state: HostState) -> None:
    complete, progress, summed = begun(state)
    listen = progress.listener(0)
    listen(TOTAL - 1)
    progress.whole(1)
    assert complete.holds(complete.wait_for(1))
    listen(TOTAL - 1)
    finish(state, progress, summed)
    assert not complete.was_sound
    assert state.control.get(Control.WHOLE)
    complete.begin(PLAN)
    assert complete.wait_for(1) == ()
    assert complete.was_sound


def test_elsewhere_than_on_x86_attempts_are_ordered_with_sums(
    state: HostState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt's number is there before its sums are, and read again after them."""
    complete, progress, _ = begun(state)
    seen: list[object] = []
    monkeypatch.setattr("unisono.hosts.ready_sums.fence", lambda: seen.append("fence"))
    monkeypatch.setattr(
        "unisono.runtime.state.backward_progress.fence", lambda: seen.append(("fence", progress.now(0).attempt))
    )
    progress.begin(0, PLAN.round)
    assert seen.pop() == ("fence", 2)
    now = BackwardProgress.now
    monkeypatch.setattr(BackwardProgress, "now", lambda *given: seen.append("look") or now(*given))
    complete.holds((2, 1))
    assert seen == ["fence", "look", "look"]
