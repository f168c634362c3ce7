"""A round's exchange between replicas: nodes to who adds them along the tree, sums back.

Collectives only move bytes; they are begun in the same order by all ranks, and looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from unisono.frameworks.protocol import ExchangeLost
from unisono.frameworks.pytorch.replicas.group import ReplicaGroup, Work
from unisono.gradients.exchanged import MOST_BYTES, Cut, Shares


def tree_sum(tree: Any, leaf: Callable[..., Tensor]) -> Tensor:
    """The sum along nested pairs; of a single leaf it is that itself.

    >>> tree_sum((((0,), (1,)), (2,)), lambda number: torch.tensor(10 * number))
    tensor(30)
    """
    return _added(tree, leaf)[0]


def _added(tree: Any, leaf: Callable[..., Tensor]) -> tuple[Tensor, bool]:
    """The sum, and whether its memory may be written to."""
    if isinstance(tree[0], int):
        return leaf(*tree), False
    (left, own), (right, free) = (_added(side, leaf) for side in tree)
    if own or free:
        return torch.add(left, right, out=left if own else right), True
    return left + right, True


class Exchange:
    """See `Pending`.

    Args:
        group: the ranks.
        shares: which nodes each has.
        nodes: this rank's nodes of each vector; they may not change meanwhile.
        sums: a tensor for each vector, where its sum is left; it may be a node: what is written there was sent before.
        firsts: what all take from the rank that has the first microbatch; written where it is another.
        most: bytes of a span.

    Attributes:
        sums: as given; they are the sums once it is done.
    """

    def __init__(
        self, group: ReplicaGroup, shares: Shares, nodes: Sequence[Sequence[Tensor]], sums: Sequence[Tensor],
        firsts: Sequence[Tensor] = (), most: int = MOST_BYTES,
    ) -> None:  # fmt: skip
        self._group, self._shares, self._nodes, self._firsts = group, shares, nodes, firsts
        self._most, self.sums = most, sums
        self._steps = self._moving()
        self._awaited: Work | None = None
        self._lost: ExchangeLost | None = None
        self._done = False

    def done(self) -> bool:
        """See `Pending.done`."""
        if self._lost is not None:
            raise self._lost
        try:
            while not self._done and self._group.is_there():
                if self._awaited is not None and not self._awaited.is_over():
                    return False
                self._awaited = next(self._steps, None)
                self._done = self._awaited is None
        except ExchangeLost as error:
            self._lost = error
            raise
        return self._done

    def _moving(self) -> Iterator[Work]:
        """What is waited for, one after another: a span's nodes are on their way while the one before is added up."""
        for first in self._firsts:
            yield from self._first(first)
        for nodes, out in zip(self._nodes, self.sums, strict=True):
            cut = Cut.of(out.numel(), out.element_size(), self._group.ranks, self._most)
            ahead = self._sent(cut, 0, nodes, out) if cut.spans else None
            for span in range(cut.spans):
                assert ahead is not None
                received, work = ahead
                ahead = self._sent(cut, span + 1, nodes, out) if span + 1 < cut.spans else None
                yield work
                rows = received.to(out.device).view(-1, cut.share)
                mine = self._group.brought(tree_sum(self._shares.tree, lambda number, rows=rows: rows[number]))
                whole = self._group.room(out, cut.span)
                yield self._group.all_gather(whole, mine)
                place = cut.place(span)
                out[place].copy_(whole[: place.stop - place.start])

    def _sent(self, cut: Cut, span: int, nodes: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Work]:
        """Begin to send each rank its slice of this rank's nodes; returns what comes, and when."""
        counts, place = self._shares.counts, cut.place(span)
        leaving = like.new_zeros((self._group.ranks, len(nodes), cut.share))
        for number, node in enumerate(nodes):
            padded = like.new_zeros(cut.span)
            padded[: place.stop - place.start] = node[place]
            leaving[:, number] = padded.view(self._group.ranks, cut.share)
        coming = self._group.room(like, sum(counts) * cut.share)
        work = self._group.all_to_all(
            coming, self._group.brought(leaving.view(-1)), [count * cut.share for count in counts],
            [len(nodes) * cut.share] * self._group.ranks,
        )  # fmt: skip
        return coming, work

    def _first(self, values: Tensor) -> Iterator[Work]:
        bits = self._group.brought(values.reshape(-1).view(torch.uint8)).clone()
        if bits.numel():
            yield self._group.broadcast(bits, self._shares.first)
            values.copy_(bits.to(values.device).view(values.dtype).view(values.shape))
