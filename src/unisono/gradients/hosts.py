"""Many hosts: which microbatches each computes, what nodes of the tree it has then, which elements it sums for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from unisono.gradients.tree import Node, aligned_nodes

MOST_ELEMENTS, LEAST_ELEMENTS = 1 << 20, 1 << 16
"""Elements of a span: few messages, as each costs time of a processor; of the last ones: the sum of the very last one
returns when nothing else is on its way."""


def host_shares(microbatches: int, workers: Sequence[int]) -> tuple[int, ...]:
    """Host h computes microbatches shares[h] … shares[h+1]−1: as many as its part of all workers.

    Equal hosts, as many as a power of two, get one aligned node of the tree each: the fewest bytes to exchange.

    Args:
        microbatches: how many there are.
        workers: each host's workers.

    >>> host_shares(8, [1, 1]), host_shares(8, [1, 2, 4])
    ((0, 4, 8), (0, 1, 3, 8))
    """
    total = sum(workers)
    return (0, *((2 * microbatches * sum_ + total) // (2 * total) for sum_ in accumulate(workers)))


def nodes_of(shares: Sequence[int], total: int) -> list[list[Node]]:
    """Each host's nodes.

    Args:
        shares: host h computes microbatches shares[h] … shares[h+1]−1.
        total: how many are not empty.

    >>> nodes_of((0, 2, 3), 3)
    [[Node(level=1, index=0)], [Node(level=1, index=1)]]
    """
    ends = [min(share, total) for share in shares]
    return [aligned_nodes(start, stop, total) for start, stop in pairwise(ends)]


def swapped(nodes: Sequence[Sequence[Node]]) -> bool:
    """Whether hosts give each other their nodes, and each adds them up by itself: two, with one node each.

    That is as many bytes as if one of them added and returned the sum, and each goes one way only.

    >>> swapped(nodes_of((0, 4, 8), 8)), swapped(nodes_of((0, 3, 8), 8)), swapped(nodes_of((0, 2, 4, 8), 8))
    (True, False, False)
    """
    return len(nodes) == 2 and all(len(own) == 1 for own in nodes)


@dataclass(frozen=True)
class Span:
    """Neighbouring elements of a region that one host sums for all.

    Attributes:
        host: which.
        region: of which region.
        start, stop: the elements.
    """

    host: int
    region: int
    start: int
    stop: int


def spans(lengths: Sequence[int], hosts: int) -> list[Span]:
    """Cut regions into spans that take turns between hosts: each sums an equal part, whichever part is done first.

    The last ones come first: a backward pass reaches the last parameters first. Towards the end each turn takes half of
    what is left.

    Args:
        lengths: elements of each region.
        hosts: how many hosts.

    >>> [(span.host, span.start, span.stop) for span in spans([10], 2)]
    [(0, 5, 10), (1, 0, 5)]
    """
    found = []
    for region, stop in reversed(list(enumerate(lengths))):
        while stop:
            each = min(MOST_ELEMENTS, max(LEAST_ELEMENTS, stop // (2 * hosts)))
            turn = min(stop, hosts * each)
            ends = [stop - turn * k // hosts for k in range(hosts + 1)]
            found += [Span(k, region, ends[k + 1], ends[k]) for k in range(hosts) if ends[k + 1] < ends[k]]
            stop -= turn
    return found
