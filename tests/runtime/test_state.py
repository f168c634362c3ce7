"""The shared state between two generations of hosts."""

from __future__ import annotations

from products import DESCRIPTION, shape
from unisono.memory.segment import Segment
from unisono.runtime.protocol import Plan
from unisono.runtime.state import Control, HostState, host_layout


def made() -> HostState:
    layout = host_layout(DESCRIPTION, shape(1, 2, 4))
    return HostState(layout, Segment.create(layout.segment))


def test_what_lost_hosts_have_used_counts_no_longer() -> None:
    state = made()
    state.segment["used"][-1] = 1
    state.control.publish(Control.EXCHANGED, 7)
    state.begin(5)
    assert not state.segment["used"].any()
    assert state.control.get(Control.EXCHANGED) == 5


def test_a_withdrawn_plan_is_no_plan() -> None:
    state = made()
    plan = Plan(5, (0, 2, 4), (0, 1), hosts=(0, 4, 8))
    state.stamp(plan)
    assert plan in state.plans()
    state.withdraw()
    assert state.plans() == [None, None]


class Recorder:
    """An area of plans that remembers what is written where, in order."""

    def __init__(self, area: memoryview) -> None:
        self.area = area
        self.writes: list[tuple[int, int]] = []

    def __setitem__(self, index: int, word: int) -> None:
        self.area[index] = word
        self.writes.append((index, word))


def test_a_plan_has_no_number_while_it_is_written() -> None:
    state = made()
    state.stamp(Plan(3, (0, 4), (0,)))
    area = state._plans[1] = Recorder(state._plans[1])  # type: ignore[call-overload]
    plan = Plan(5, (0, 2, 4), (0, 1))
    state.stamp(plan)
    assert area.writes[0] == (0, 0), "whoever reads now sees that there is none"
    assert area.writes[-1] == (0, plan.round + 1)
    assert [index for index, _ in area.writes[1:-1]] == list(range(1, len(plan.to_words())))
