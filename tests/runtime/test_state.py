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
