"""What each host has of a round, and how it is added up along the tree; pure, from the plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unisono.gradients.hosts import nodes_of, swapped
from unisono.gradients.tree import expression
from unisono.runtime.rules.folding import partial_sums
from unisono.runtime.rules.plan import Plan


@dataclass(frozen=True)
class Additions:
    """A round's additions, as nested pairs.

    Attributes:
        own: this host's nodes, each as a sum of what its pipes have left: of (pipe, buffer).
        counts: how many nodes each host has.
        tree: the sum over all hosts: of (host, node).
        single: those (pipe, buffer) that hold one microbatch.
        swapped: whether two hosts give each other what they have, and both add.
    """

    own: tuple[Any, ...]
    counts: tuple[int, ...]
    tree: Any
    single: frozenset[tuple[int, int]]
    swapped: bool

    @staticmethod
    def of(plan: Plan, host: int, total: int) -> Additions:
        """Those of a round.

        Args:
            plan: its plan, which shares the microbatches out among the hosts.
            host: this one.
            total: microbatches that are not empty.

        >>> found = Additions.of(Plan(0, (0, 1, 2), (0, 1), hosts=(0, 2, 4)), 0, 4)
        >>> found.own, found.counts, found.tree, found.swapped
        ((((0, 0), (1, 0)),), (1, 1), ((0, 0), (1, 0)), True)
        """
        nodes, local = nodes_of(plan.hosts, total), partial_sums(plan, total)
        owned = {node: (host, index) for host, own in enumerate(nodes) for index, node in enumerate(own)}
        return Additions(
            tuple(expression(total, local, node) for node in nodes[host]), tuple(map(len, nodes)),
            expression(total, owned), frozenset(at for node, at in local.items() if node.level == 0), swapped(nodes),
        )  # fmt: skip

    def leaves(self) -> Iterator[tuple[int, int]]:
        """All (pipe, buffer) of this host's nodes."""
        pending = [*self.own]
        while pending:
            node = pending.pop()
            if isinstance(node[0], int):
                yield node
            else:
                pending += node
