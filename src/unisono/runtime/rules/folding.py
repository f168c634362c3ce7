"""How a round's microbatches are folded by one pipe, and what is added up over all: pure, from the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unisono.gradients.hosts import nodes_of, swapped
from unisono.gradients.tree import Fold, FoldStep, Node, expression, fold
from unisono.runtime.rules.plan import Plan

ALL_HOSTS = -1
"""The number of the pipe under which the sums over all hosts lie."""


@dataclass(frozen=True)
class Folding:
    """A round's additions.

    Attributes:
        steps: how a pipe folds its microbatches.
        gradients: the sum of the gradients, as nested pairs of (pipe, buffer); what came from other hosts lies under
            `ALL_HOSTS`.
        buffers: the sum of the buffers, in the same way.
    """

    steps: tuple[FoldStep, ...]
    gradients: Any
    buffers: Any


def partial_sums(plan: Plan, total: int) -> dict[Node, tuple[int, int]]:
    """Where a host's pipes leave which nodes of the tree: (pipe, buffer).

    Args:
        plan: the round's plan.
        total: microbatches that are not empty.

    >>> partial_sums(Plan(0, (0, 1, 2), (0, 1)), 2)
    {Node(level=0, index=0): (0, 0), Node(level=0, index=1): (1, 0)}
    """
    return {
        node: (pipe, buffer)
        for pipe in range(plan.pipes)
        for node, buffer in _fold(plan, pipe, total).final.items()
    }  # fmt: skip


def folding(plan: Plan, pipe: int, total: int) -> Folding:
    """The additions of a round.

    Args:
        plan: its plan.
        pipe: whose steps.
        total: microbatches that are not empty.

    >>> folding(Plan(0, (0, 1, 2), (0, 1)), 0, 2).gradients
    ((0, 0), (1, 0))
    >>> folding(Plan(0, (2, 4), (0,), hosts=(0, 2, 4)), 0, 4).gradients
    ((-1, 0), (0, 0))
    >>> folding(Plan(0, (4, 6), (0,), hosts=(0, 2, 4, 6)), 0, 6).gradients
    (-1, 0)
    """
    steps = _fold(plan, pipe, total).steps if pipe < plan.pipes else ()
    owned = partial_sums(plan, total)
    if not plan.hosts:
        tree = expression(total, owned)
        return Folding(steps, tree, tree)
    nodes, sums = nodes_of(plan.hosts, total), (ALL_HOSTS, 0)
    if not swapped(nodes):
        return Folding(steps, sums, sums)
    owned.update({node: sums for own in nodes for node in own if node.start not in plan.own})
    return Folding(steps, expression(total, owned), sums)


def _fold(plan: Plan, pipe: int, total: int) -> Fold:
    run = plan.share(pipe)
    return fold(min(run.start, total), min(run.stop, total), total)
