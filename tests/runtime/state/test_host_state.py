"""The shared state between two generations of hosts."""

from __future__ import annotations

from products import made
from unisono.runtime.state.control import Control


def test_what_lost_hosts_have_used_counts_no_longer() -> None:
    state = made()
    state.segment["used"][-1] = 1
    state.control.publish(Control.EXCHANGED, 7)
    state.begin(5)
    assert not state.segment["used"].any()
    assert state.control.get(Control.EXCHANGED) == 5
