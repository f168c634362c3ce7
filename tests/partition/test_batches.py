"""Microbatches are disjoint and cover the epoch; all have the same number of places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.errors import UsageError
from unisono.partition.batches import Batches


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 20), st.booleans())
def test_an_epoch_is_covered_once(length: int, batch_size: int, microbatches: int, drop_last: bool) -> None:
    if drop_last and length < batch_size:
        return
    batches = Batches(length, batch_size, microbatches, drop_last)
    seen = [
        position
        for step in range(batches.steps_per_epoch)
        for m in range(microbatches)
        for position in batches.positions(step, m)
    ]
    assert seen == list(range(length if not drop_last else length // batch_size * batch_size))
    for step in range(batches.steps_per_epoch):
        lengths = [len(batches.positions(step, m)) for m in range(microbatches)]
        assert sum(lengths) == batches.samples(step)
        assert [n for n in lengths if n] == lengths[: batches.nonempty(step)]
        assert all(n == batches.microbatch_size for n in lengths[: batches.nonempty(step) - 1])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [((0, 4, 2, False), "empty"), ((4, 0, 2, False), "batch_size"), ((3, 4, 2, True), "drop_last")],
)
def test_what_cannot_be_cut_is_refused(arguments: tuple[int, int, int, bool], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Batches(*arguments)
