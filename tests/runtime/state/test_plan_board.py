"""Plans in shared memory: whole or not there, whoever reads while they are written."""

from __future__ import annotations

import pytest

from products import made
from recorder import Recorder
from unisono.runtime.rules.plan import Plan

BOARD = "unisono.runtime.state.plan_board"


def test_a_withdrawn_plan_is_no_plan() -> None:
    state = made()
    plan = Plan(5, (0, 2, 4), (0, 1), hosts=(0, 4, 8))
    state.plans.stamp(plan)
    assert plan in state.plans.read()
    state.plans.withdraw()
    assert state.plans.read() == [None, None]


def test_a_plan_has_no_number_while_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    state = made()
    state.plans.stamp(Plan(3, (0, 4), (0,)))
    area = state.plans._areas[1] = Recorder(state.plans._areas[1], BOARD, monkeypatch)  # type: ignore[call-overload]
    plan = Plan(5, (0, 2, 4), (0, 1))
    state.plans.stamp(plan)
    before, *content, after, number = area.seen
    assert (before, number) == ((0, 0), (0, plan.round + 1)), "whoever reads meanwhile sees that there is none"
    assert content[0] == after == "fence", "elsewhere than on x86-64 too"
    assert [index for index, _ in content[1:]] == list(range(1, len(plan.to_words())))  # type: ignore[misc]


def test_a_plan_is_read_between_two_looks_at_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    state = made()
    plan = Plan(5, (0, 2, 4), (0, 1))
    state.plans.stamp(plan)
    area = state.plans._areas[1] = Recorder(state.plans._areas[1], BOARD, monkeypatch)  # type: ignore[call-overload]
    assert state.plans.read() == [None, plan]
    assert [step for step in area.seen if step != "fence"] == [0, "all", 0]
    assert " ".join(map(str, area.seen)).endswith("0 fence all fence 0")


@pytest.mark.parametrize("change", [6, 7, 0])
def test_a_plan_that_is_written_while_it_is_read_is_none(change: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody begins to write it anew (0), or has written another one (7); the same number again is the same plan."""
    state = made()
    state.plans.stamp(Plan(5, (0, 2, 4), (0, 1)))
    recorder = Recorder(state.plans._areas[1], BOARD, monkeypatch)
    state.plans._areas[1] = recorder  # type: ignore[call-overload]
    monkeypatch.setattr(recorder, "tolist", lambda: (recorder.area.tolist(), recorder.__setitem__(0, change))[0])
    assert (state.plans.read()[1] is None) == (change != 6)
