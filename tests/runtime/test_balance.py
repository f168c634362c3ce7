"""Shares follow measured speed and stay a partition."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from unisono.runtime.balance import balanced
from unisono.runtime.protocol import even

paces = st.lists(st.floats(0.001, 10), min_size=1, max_size=8)


def _counts(boundaries: tuple[int, ...]) -> list[int]:
    return [b - a for a, b in itertools.pairwise(boundaries)]


@given(paces, st.integers(1, 40))
def test_shares_are_a_partition_and_never_worse(pace: list[float], microbatches: int) -> None:
    slots = len(pace)
    before = even(microbatches, slots)
    after = balanced(microbatches, slots, pace, before)
    counts = _counts(after)
    assert after[0] == 0
    assert after[-1] == microbatches
    assert all(count >= (1 if microbatches > slots else 0) for count in counts)
    longest = [max(count * p for count, p in zip(_counts(x), pace, strict=True)) for x in (before, after)]
    assert longest[1] <= longest[0]


def test_a_world_that_is_not_measured_yet_is_even() -> None:
    assert balanced(8, 3, [1.0, 0.0, 9.0]) == even(8, 3)
