"""Shares follow measured speed and stay a partition."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from counting import is_linear, lines_of
from unisono.runtime.rules.balance import balanced, laggards, smoothed
from unisono.runtime.rules.plan import even

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


@given(
    st.lists(st.sampled_from([1e-9, 0.001, 0.1, 0.3, 1.0, 3.0, 7.7]), min_size=1, max_size=9) | paces,
    st.integers(1, 300),
)
def test_shares_are_those_of_handing_out_one_by_one(pace: list[float], microbatches: int) -> None:
    before = (*[0] * len(pace), microbatches)
    counts = [1] * len(pace)
    for _ in range(microbatches - len(pace)):
        ends = [(count + 1) * seconds for count, seconds in zip(counts, pace, strict=True)]
        counts[ends.index(min(ends))] += 1
    after = balanced(microbatches, len(pace), pace, before)
    assert after in (before, (0, *itertools.accumulate(counts)))
    assert after == balanced(microbatches, len(pace), pace, after), "and stay as they are"


def test_many_microbatches_are_not_handed_out_one_by_one() -> None:
    assert lines_of(lambda: balanced(2_000, 8, [1.0] * 7 + [3.0], None)) < 200
    assert is_linear(lambda slots: lambda: balanced(20 * slots, slots, [1.0] * (slots - 1) + [3.0]), 32)


def test_a_world_that_is_not_measured_yet_is_even() -> None:
    assert balanced(8, 3, [1.0, 0.0, 9.0]) == even(8, 3)


def test_a_slot_s_pace_is_the_middle_of_its_microbatches_and_follows_slowly() -> None:
    assert smoothed([0.0, 0.0], (0, 3, 5), [1.0, 9.0, 2.0, 4.0, 3.0]) == [2.0, 3.0]
    assert smoothed([1.0, 5.0, 7.0], (0, 1, 1, 2), [2.0, 2.0]) == [1.2, 5.0, 6.0]  # who computed nothing keeps its own


def test_new_shares_must_be_worth_it() -> None:
    assert balanced(9, 2, [1.0, 1.25], (0, 4, 9)) == (0, 5, 9)  # 5.0 s instead of 6.25 s
    assert balanced(10, 2, [1.0, 1.2], (0, 5, 10)) == (0, 5, 10)  # 6.0 s are as long as that
    assert balanced(20, 2, [1.0, 1.1], (0, 10, 20)) == (0, 10, 20)  # 10.0 s instead of 11.0 s are not worth it
    assert balanced(18, 2, [1.0, 1.0], (0, 8, 18)) == (0, 8, 18)  # a tenth is not more than a tenth
    assert balanced(4, 4, [1.0, 1.0, 1.0, 9.0], (0, 2, 3, 4, 4)) == (0, 2, 3, 4, 4)  # nothing to choose
    assert balanced(5, 4, [1.0, 2.0, 2.0, 2.0]) == (0, 2, 3, 4, 5)


def test_laggards_are_slower_than_the_usual() -> None:
    assert laggards([2.0, 0.0, 3.0, 2.0, 2.9]) == {2: 1.5}
    assert laggards([0.0, 0.0]) == {}
    assert laggards([0.0, 0.0, 0.0, 2.0, 3.28]) == {4: 1.6}
    assert laggards([1.0, 4.0], factor=4.0) == {1: 4.0}
