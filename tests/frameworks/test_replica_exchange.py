"""Replicas exchange nodes in many spans, and hear of a group that is given up."""

from __future__ import annotations

import gc
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from unisono.frameworks.protocol import ExchangeLost, Group
from unisono.frameworks.pytorch.replicas.exchange import Exchange, tree_sum
from unisono.frameworks.pytorch.replicas.group import GlooGroup
from unisono.gradients.exchanged import Shares
from unisono.gradients.tree import Node, expression
from waiting import until

LENGTHS = {torch.float32: 1000, torch.float64: 37, torch.float16: 0}


def joined(path: Path, ranks: int) -> list[GlooGroup]:
    path.touch()
    groups = [GlooGroup(Group("test", rank, ranks, str(path))) for rank in range(ranks)]
    until(lambda: all(group.is_there() for group in groups), "all have joined")
    return groups


@pytest.mark.parametrize("boundaries", [(0, 2, 4), (0, 3, 3, 7), (0, 0, 1, 6, 7)])
def test_sums_are_the_trees_in_many_padded_spans(tmp_path: Path, boundaries: tuple[int, ...]) -> None:
    total, ranks = boundaries[-1], len(boundaries) - 1
    generator = torch.Generator().manual_seed(0)
    like = [torch.empty(length, dtype=dtype) for dtype, length in LENGTHS.items()]
    parts = [[torch.randn(each.shape, generator=generator).to(each.dtype) for _ in range(total)] for each in like]
    leaves, shares = {Node(0, number): (number,) for number in range(total)}, Shares.of(boundaries, total)
    firsts = [torch.tensor([rank, 7]) for rank in range(ranks)]
    exchanges = []
    for group, nodes, first in zip(joined(tmp_path / "store", ranks), shares.nodes, firsts, strict=True):
        own = [[tree_sum(expression(total, leaves, n), part.__getitem__) for n in nodes] for part in parts]
        exchanges.append(Exchange(group, shares, own, like, [first], most=1024))
    until(lambda: not [each for each in exchanges if not each.done()], "all sums are there")
    for each in exchanges:
        for found, part in zip(each.sums, parts, strict=True):
            assert torch.equal(found, tree_sum(expression(total, leaves), part.__getitem__))
    assert [first.tolist() for first in firsts] == [[shares.first, 7]] * ranks
    assert [len(nodes) > 0 for nodes in shares.nodes] == [a < b for a, b in pairwise(boundaries)]


def test_an_exchange_with_who_leaves_is_lost(tmp_path: Path) -> None:
    first, second = joined(tmp_path / "store", 2)
    vector = torch.ones(100)
    exchange = Exchange(first, Shares.of((0, 1, 2), 2), [[vector]], [vector])
    assert not exchange.done()
    second.leave()
    with pytest.raises(ExchangeLost, match="lost a process"):
        until(exchange.done, "what never comes")
    with pytest.raises(ExchangeLost):
        exchange.done()


def test_what_takes_the_place_of_a_groups_file_is_left_alone(tmp_path: Path) -> None:
    """A supervisor has one file after another under the same number, and its own ones too."""
    path, before = tmp_path / "store", threading.active_count()
    groups = joined(path, 2)
    path.unlink()
    path.write_bytes(b"another file")
    while groups:
        groups.pop().leave()
    gc.collect()
    until(lambda: threading.active_count() <= before, "both are taken down")
    assert path.read_bytes() == b"another file"
