"""When the hosts of a run are to meet anew, as one of their supervisors sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from products import host_state
from unisono.runtime.rules.shutdown import Shutdown
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_shares import HostShares
from unisono.runtime.supervisor.regrouping import Regrouping

ROUND = 5


def test_a_connection_that_breaks_after_hosts_have_agreed_and_before_all_is_exchanged() -> None:
    with host_state(1, 2, 4) as state:
        state.begin(ROUND)
        run: Any = SimpleNamespace(
            state=state, control=state.control, records=SimpleNamespace(plan=SimpleNamespace(round=ROUND))
        )
        others: Any = SimpleNamespace(is_called=False, trouble=lambda: None)
        site: Any = SimpleNamespace(ending=SimpleNamespace(failure=None, fail=lambda failure: None))
        absent: Any = None
        regrouping = Regrouping(run, site, others, absent, absent)
        shares = HostShares(state)
        shares.begin(0, [1, 1])
        assert not regrouping.is_due()
        others.is_called = True
        assert regrouping.is_due()
        shares.agree([1, 1], [0, Shutdown(True, 15).word], 0)
        assert regrouping.is_due(), "workers wait for sums that never come"
        state.control.publish(Control.EXCHANGED, ROUND + 1)
        assert not regrouping.is_due(), "the round is finished first"
