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
    with pytest.raises(UsageError, match="negative"):
        weighted([-1, 2])


@pytest.mark.parametrize("bad", [lambda e, g: [9], lambda e, g: [0.5], lambda e, g: []])
def test_indices_outside_the_data_are_refused(bad: object) -> None:
    with pytest.raises(UsageError, match="order"):
        epoch_order(bad, 3, 0, 0)  # type: ignore[arg-type]
