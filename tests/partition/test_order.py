"""Orders depend on (seed, epoch) alone and are checked."""

from __future__ import annotations

import numpy as np
import pytest

from unisono.errors import UsageError
from unisono.partition.order import by_length, epoch_order, stratified, weighted


def test_shuffled_is_a_permutation_that_changes_with_seed_and_epoch() -> None:
    one = epoch_order("shuffled", 50, 0, 0)
    assert sorted(one) == list(range(50))
    assert (one == epoch_order("shuffled", 50, 0, 0)).all()
    assert (one != epoch_order("shuffled", 50, 0, 1)).any()
    assert (one != epoch_order("shuffled", 50, 1, 0)).any()


def test_by_length_puts_like_lengths_together() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 64)
    order = epoch_order(by_length(lengths.tolist(), 8), 64, 0, 0)
    assert sorted(order) == list(range(64))
    spreads = [np.ptp(lengths[order[i : i + 8]]) for i in range(0, 64, 8)]
    assert np.mean(spreads) < 250


def test_stratified_keeps_the_proportions_in_every_stretch() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    order = epoch_order(stratified(labels.tolist()), 100, 0, 0)
    assert sorted(order) == list(range(100))
    assert all(1 <= labels[order[i : i + 20]].sum() <= 3 for i in range(0, 100, 20))


def test_weighted_never_draws_a_zero() -> None:
    order = epoch_order(weighted([0, 1, 3]), 3, 0, 0)
    assert 0 not in order
    with pytest.raises(UsageError, match=r"not all 0; weight 0 is -1\.0"):
        weighted([-1, 2])
    with pytest.raises(UsageError, match="weight 1 is inf"):
        weighted([1, float("inf")])
    assert set(epoch_order(weighted([0.25, 0.125]), 2, 0, 0)) <= {0, 1}
    for nothing in ([], [0, 0]):
        with pytest.raises(UsageError, match="not all 0"):
            weighted(nothing)


def test_weighted_draws_with_replacement_as_often_as_the_weights_say() -> None:
    order = epoch_order(weighted([1, 3, 4] * 1000), 3000, 0, 0)
    shares = np.bincount(order % 3) / 3000
    assert np.abs(shares - [1 / 8, 3 / 8, 4 / 8]).max() < 0.05
    assert len(set(order.tolist())) < 3000


def test_by_length_shuffles_batches_and_keeps_a_short_one_last() -> None:
    lengths = list(range(22))
    order = by_length(lengths, 5)
    orders = [epoch_order(order, 22, 0, epoch) for epoch in range(2)]
    for found in orders:
        assert sorted(found) == list(range(22))
        starts = [sorted(found[at : at + 5]) for at in range(0, 22, 5)]
        assert sorted(starts[:-1]) == [list(range(at, at + 5)) for at in range(0, 20, 5)]
        assert starts[-1] == [20, 21]
    assert (orders[0][:20:5] // 5 != orders[1][:20:5] // 5).any(), "batches come in another order in each epoch"
    alike = [epoch_order(by_length([3] * 20, 5), 20, 0, epoch) for epoch in range(2)]
    assert (alike[0] != alike[1]).any(), "samples of one length are mixed anew in each epoch"


def test_stratified_spreads_each_class_evenly() -> None:
    labels = np.array(["a"] * 30 + ["b"] * 20 + ["c"])
    orders = [epoch_order(stratified(labels.tolist()), 51, 0, epoch) for epoch in range(2)]
    for order in orders:
        assert sorted(order) == list(range(51))
        assert order.dtype == np.int64
        gaps = np.diff(np.flatnonzero(labels[order] == "a"))
        assert gaps.max() <= 3
    assert (orders[0] != orders[1]).any()


def test_an_order_s_indices_may_be_some_of_the_data_and_must_be_of_them() -> None:
    order = epoch_order(lambda epoch, generator: [epoch, 0, 2, 2], 3, 0, 1)
    assert order.tolist() == [1, 0, 2, 2]
    assert epoch_order(lambda epoch, generator: [2], 3, 0, 1).tolist() == [2]
    assert order.dtype == np.int64
    for bad, text in ((3, "from 0 to 2; received 0 to 3 in epoch 1"), (-1, "received -1 to 0")):
        with pytest.raises(UsageError, match=text):
            epoch_order(lambda epoch, generator, bad=bad: [0, bad], 3, 0, 1)
    with pytest.raises(UsageError, match=r"a sequence of integers; received shape \(1, 2\) of int64"):
        epoch_order(lambda epoch, generator: [[0, 1]], 3, 0, 1)
    with pytest.raises(UsageError, match=r"'shuffled', 'sequential' or a function .*; received 'random'"):
        epoch_order("random", 3, 0, 1)


@pytest.mark.parametrize("bad", [lambda e, g: [9], lambda e, g: [0.5], lambda e, g: [], lambda e, g: range(0)])
def test_indices_outside_the_data_are_refused(bad: object) -> None:
    with pytest.raises(UsageError, match="order"):
        epoch_order(bad, 3, 0, 0)  # type: ignore[arg-type]
