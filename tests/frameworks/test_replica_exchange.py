"""Replicas exchange nodes in many spans, and hear of a group that is given up."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")

import torch

from unisono.frameworks.protocol import ExchangeLost, Group
from unisono.frameworks.pytorch.replicas.exchange import Exchange, tree_sum
from unisono.frameworks.pytorch.replicas.group import ReplicaGroup
from unisono.frameworks.pytorch.replicas.settings import c10d
from unisono.gradients.exchanged import Shares
from unisono.gradients.tree import Node, expression
from waiting import until

LENGTHS = {torch.float32: 1000, torch.float64: 37, torch.float16: 0}


def joined(path: Path, ranks: int, gpus: str = "") -> list[ReplicaGroup]:
    path.touch()
    groups = [ReplicaGroup(Group("test", rank, ranks, str(path)), gpu=gpus[rank : rank + 1]) for rank in range(ranks)]
    until(lambda: all(group.is_there() for group in groups), "all have joined")
    return groups


class NcclOnCpu:
    """What is asked of torch's NCCL groups, by a gloo group: no GPU is at hand."""

    made: ClassVar[list[NcclOnCpu]] = []

    class Options:
        """As torch's."""

        def __init__(self) -> None:
            self.config, self._timeout = SimpleNamespace(blocking=1), timedelta()

    def __init__(self, store: Any, rank: int, ranks: int, options: Options) -> None:
        gloo = c10d.ProcessGroupGloo
        held = gloo._Options()
        held._devices, held._timeout = [gloo.create_device(hostname="127.0.0.1")], options._timeout
        self.group, self.options, self.aborted = gloo(store, rank, ranks, held), options, False
        self.has_watchdog = os.environ.get("TORCH_NCCL_BLOCKING_WAIT") != "1"
        self.made.append(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.group, name)

    def abort(self) -> None:
        """Note it."""
        self.aborted = True


@pytest.fixture
def nccl(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[NcclOnCpu]]:
    """The groups that were made by NCCL."""
    monkeypatch.setattr(c10d, "ProcessGroupNCCL", NcclOnCpu, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    NcclOnCpu.made.clear()
    yield NcclOnCpu.made
    NcclOnCpu.made.clear()


def test_gpus_exchange_by_themselves_where_each_process_has_one(tmp_path: Path, nccl: list[NcclOnCpu]) -> None:
    tree_sums_agree(tmp_path, (0, 3, 3, 7), "abc")
    assert [(each.options.config.blocking, each.has_watchdog) for each in nccl] == [(0, False)] * 3
    groups = joined(tmp_path / "other", 2, "ab")
    groups[0].leave()
    assert not groups[0].is_there()
    assert sum(each.aborted for each in nccl) == 1


def test_processes_that_share_a_gpu_exchange_by_way_of_the_host(tmp_path: Path, nccl: list[NcclOnCpu]) -> None:
    tree_sums_agree(tmp_path, (0, 3, 3, 7), "aba")
    assert not nccl


@pytest.mark.parametrize("boundaries", [(0, 2, 4), (0, 3, 3, 7), (0, 0, 1, 6, 7)])
def test_sums_are_the_trees_in_many_padded_spans(tmp_path: Path, boundaries: tuple[int, ...]) -> None:
    tree_sums_agree(tmp_path, boundaries)


def tree_sums_agree(tmp_path: Path, boundaries: tuple[int, ...], gpus: str = "") -> None:
    total, ranks = boundaries[-1], len(boundaries) - 1
    generator = torch.Generator().manual_seed(0)
    like = [torch.empty(length, dtype=dtype) for dtype, length in LENGTHS.items()]
    parts = [[torch.randn(each.shape, generator=generator).to(each.dtype) for _ in range(total)] for each in like]
    leaves, shares = {Node(0, number): (number,) for number in range(total)}, Shares.of(boundaries, total)
    firsts = [torch.tensor([rank, 7]) for rank in range(ranks)]
    exchanges = []
    for group, nodes, first in zip(joined(tmp_path / "store", ranks, gpus), shares.nodes, firsts, strict=True):
        own = [[tree_sum(expression(total, leaves, n), part.__getitem__).clone() for n in nodes] for part in parts]
        sums = [(each or [torch.empty_like(empty)])[0] for each, empty in zip(own, like, strict=True)]
        exchanges.append(Exchange(group, shares, own, sums, [first], most=1024))
    until(lambda: not [each for each in exchanges if not each.done()], "all sums are there")
    for each in exchanges:
        for found, part in zip(each.sums, parts, strict=True):
            assert torch.equal(found, tree_sum(expression(total, leaves), part.__getitem__))
    assert [first.tolist() for first in firsts] == [[shares.first, 7]] * ranks
    assert [len(nodes) > 0 for nodes in shares.nodes] == [a < b for a, b in pairwise(boundaries)]


def test_an_exchange_with_who_leaves_is_lost(tmp_path: Path) -> None:
    first, second = joined(tmp_path / "store", 2)
    vector = torch.ones(100)
    exchange = Exchange(first, Shares.of((0, 1, 2), 2), [[vector]], [torch.empty(100)])
    assert not exchange.done()
    second.leave()
    with pytest.raises(ExchangeLost, match="lost a process"):
        until(exchange.done, "what never comes")
    with pytest.raises(ExchangeLost):
        exchange.done()


def test_a_group_that_comes_about_after_it_was_left_breaks_no_other(tmp_path: Path) -> None:
    """Its meeting goes on beside that of the next group, whose connections are none of its own."""
    (tmp_path / "left").touch()
    left = [ReplicaGroup(Group("left", 0, 2, str(tmp_path / "left")))]
    until(lambda: left[0]._by is not None, "it begins to meet")
    left[0].leave()
    groups = joined(tmp_path / "next", 2)
    left.append(ReplicaGroup(Group("left", 1, 2, str(tmp_path / "left"))))
    until(left[1].is_there, "the other one has met it")
    meeting = [thread for thread in threading.enumerate() if getattr(thread, "_target", None) == left[0]._join]
    for thread in meeting:
        thread.join()
    found = [torch.zeros(2) for _ in groups]
    works = [group.all_gather(out, torch.ones(1)) for group, out in zip(groups, found, strict=True)]
    until(lambda: all(work.is_over() for work in works), "all have all")
    for group in (*groups, left[1]):
        group.leave()


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
