"""Keys, orders and batches as numbers: a run that another version or another machine resumes draws the same."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from unisono.partition.batches import Batches, default_microbatches
from unisono.partition.keys import key
from unisono.partition.order import by_length, epoch_order, stratified, weighted

KEYS: dict[tuple[int | str, ...], int] = {
    (0, "order", 1): 3107119615989845548,
    (3, "compute", 7, 2): 8227928107516976668,
    (0, "sample", 1, 99): 2213647687230219817,
    (0, "evaluation", "near", 0, 1): 5447302681424886999,
    ("1",): 3032292063650762948,
    (1,): 389430377700070743,
    (2**40, "a"): 7371777261069111751,
}
ORDERS: dict[str, tuple[Any, list[list[int]]]] = {
    "shuffled": ("shuffled", [[8, 6, 2, 7, 4, 3, 5, 0, 1], [1, 7, 4, 0, 2, 3, 8, 6, 5], [3, 1, 2, 0, 6, 4, 5, 7, 8]]),
    "stratified": (
        stratified([0] * 6 + [1] * 3),
        [[7, 3, 2, 6, 4, 5, 8, 0, 1], [4, 7, 1, 0, 6, 2, 3, 8, 5], [1, 3, 8, 0, 2, 6, 4, 5, 7]],
    ),
    "by length": (
        by_length([5, 1, 4, 1, 5, 9, 2, 6, 5], 3),
        [[2, 8, 4, 3, 1, 6, 0, 7, 5], [2, 4, 0, 8, 7, 5, 1, 3, 6], [3, 1, 6, 2, 0, 4, 8, 7, 5]],
    ),
    "weighted": (
        weighted(range(1, 10)),
        [[7, 7, 1, 6, 1, 4, 4, 3, 7], [6, 2, 4, 5, 3, 5, 7, 5, 5], [4, 6, 6, 1, 8, 3, 7, 5, 2]],
    ),
}
"""An order, and what it is for (seed, epoch) = (0, 0), (0, 1) and (7, 0)."""
MICROBATCHES = {1: range(1, 2), 2: range(2, 64), 4: range(64, 512), 8: range(512, 5000)}
"""How many a batch is cut into where the job does not say, and the sizes of such batches."""


@pytest.mark.parametrize("parts", KEYS)
def test_keys(parts: tuple[int | str, ...]) -> None:
    assert key(*parts) == KEYS[parts]


@pytest.mark.parametrize("name", ORDERS)
def test_orders(name: str) -> None:
    order, expected = ORDERS[name]
    assert [epoch_order(order, 9, *place).tolist() for place in ((0, 0), (0, 1), (7, 0))] == expected


def test_microbatches_by_default() -> None:
    for count, sizes in MICROBATCHES.items():
        assert {default_microbatches(size) for size in sizes} == {count}
    assert default_microbatches(10**9) == 8


def test_a_long_order() -> None:
    indices = epoch_order("shuffled", 100_000, 0, 0).astype("<i8")
    assert hashlib.sha256(indices.tobytes()).hexdigest()[:16] == "ac5de964287a2146"


def test_what_a_small_job_reads() -> None:
    """By step and microbatch, over two epochs of 7 samples in batches of 4 and microbatches of 2."""
    batches = Batches(7, 4, 2, False)
    orders = [epoch_order("shuffled", 7, 0, epoch).tolist() for epoch in (0, 1)]
    found = [
        [[orders[batches.locate(step)[0]][at] for at in batches.positions(step, m)] for m in range(2)]
        for step in range(4)
    ]
    assert found == [[[3, 2], [5, 0]], [[1, 6], [4]], [[4, 1], [0, 2]], [[3, 6], [5]]]
