"""The nodes of the tree that hosts have, each of its share of the microbatches, and who adds them up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from unisono.gradients.tree import Node, aligned_nodes


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
