"""What hosts have agreed on is what each of them reads."""

from __future__ import annotations

import pytest

from products import host_state
from unisono.gradients.hosts import host_shares
from unisono.runtime.rules.shutdown import Shutdown
from unisono.runtime.state.host_shares import HostShares


def test_each_number_is_read_where_it_was_written() -> None:
    with host_state(1, 2, 8) as state:
        agreed = HostShares(state)
        agreed.begin(1, [1, 1])
        assert (agreed.host, agreed.several, agreed.stop, agreed.asked, agreed.workers) == (1, True, False, 0, [1, 1])
        leaves = Shutdown(True, 15)
        agreed.agree([2, 3], [leaves.word, 0], 5)
        assert (agreed.host, agreed.several, agreed.stop, agreed.asked, agreed.workers) == (1, True, True, 5, [2, 3])
        assert agreed.shutdowns == [leaves, None]
        agreed.begin(0, [3])
        assert (agreed.stop, agreed.asked, agreed.shutdowns) == (False, 0, [None])


@pytest.mark.parametrize("object_metrics", [False, True])
def test_hosts_share_every_round_but_one_whose_metric_objects_are_fed(object_metrics: bool) -> None:
    shares = host_shares(8, [2, 3])
    with host_state(1, 2, 8, object_metrics) as state:
        agreed = HostShares(state)
        agreed.begin(1, [2, 3])
        assert agreed.of_round(training=True) == shares
        assert agreed.of_round(training=False) == (() if object_metrics else shares)
        assert agreed.own(shares) == range(shares[1], shares[2])
        assert agreed.own(()) == range(8)


def test_a_host_alone_shares_nothing() -> None:
    with host_state(1, 2, 8) as state:
        agreed = HostShares(state)
        agreed.begin(0, [3])
        assert not agreed.several
        assert agreed.of_round(training=True) == ()
