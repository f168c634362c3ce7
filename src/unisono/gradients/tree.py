"""The one binary tree over microbatches along which every sum is formed.

Leaves are microbatches 0…M−1; node (j, k) sums microbatches [k·2ʲ, (k+1)·2ʲ) as left + right; a missing right child
passes the left through. A slot with a contiguous run leaves its maximal aligned nodes, so any boundaries between
slots give the same additions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Leaf = TypeVar("Leaf")


@dataclass(frozen=True)
class Node:
    """A node of the tree: microbatches [index·2^level, (index+1)·2^level)."""

    level: int
    index: int

    @property
    def start(self) -> int:
        """Its first microbatch."""
        return self.index << self.level

    @property
    def stop(self) -> int:
        """The microbatch after its last, were the tree full."""
        return (self.index + 1) << self.level


def root(total: int) -> Node:
    """The node that sums all of `total` microbatches.

    >>> root(5)
    Node(level=3, index=0)
    """
    return Node((total - 1).bit_length(), 0)


def aligned_nodes(start: int, stop: int, total: int) -> list[Node]:
    """The maximal nodes that lie in a run of microbatches.

    Args:
        start: the run's first microbatch.
        stop: the one after its last.
        total: how many there are; a node may reach beyond it.

    >>> aligned_nodes(1, 6, 6)
    [Node(level=0, index=1), Node(level=1, index=1), Node(level=2, index=1)]
    """
    nodes = []
    while start < stop:
        level = 0
        while True:
            bigger = Node(level + 1, start >> (level + 1))
            if bigger.start != start or min(bigger.stop, total) > stop or level >= root(total).level:
                break
            level += 1
        node = Node(level, start >> level)
        nodes.append(node)
        start = min(node.stop, total)
    return nodes


def expression(total: int, owned: Mapping[Node, Leaf], top: Node | None = None) -> Any:
    """The sum of all microbatches from partial sums, as nested (left, right) pairs.

    Args:
        total: how many microbatches.
        owned: the partial sums at hand, by node.
        top: the node to sum; default: all microbatches.

    >>> expression(3, {Node(1, 0): "a", Node(0, 2): "b"})
    ('a', 'b')
    """

    def form(node: Node) -> Any:
        if node in owned:
            return owned[node]
        left, right = Node(node.level - 1, 2 * node.index), Node(node.level - 1, 2 * node.index + 1)
        if node.level == 0:
            raise ValueError(f"nobody owns microbatch {node.index}")
        return form(left) if right.start >= total else (form(left), form(right))

    return form(top or root(total))


@dataclass(frozen=True)
class FoldStep:
    """Compute a microbatch into a buffer, then add buffers (into, from) in order."""

    microbatch: int
    buffer: int
    additions: tuple[tuple[int, int], ...]

    def destination(self, add: bool) -> int:
        """The buffer that the gradient is written into: its own, or (add) at once that of what it is added to."""
        return self.additions[0][0] if add and self.additions else self.buffer


@dataclass(frozen=True)
class Fold:
    """How a slot works through its run with few buffers; `final` tells which buffer holds which node."""

    steps: tuple[FoldStep, ...]
    final: Mapping[Node, int]

    def written(self, add: bool) -> set[int]:
        """The buffers that gradients are written into; see `FoldStep.destination`.

        >>> fold(0, 8, 8).written(add=True), fold(0, 8, 8).written(add=False)
        ({0, 1, 2}, {0, 1, 2, 3})
        """
        return {step.destination(add) for step in self.steps}


def fold(start: int, stop: int, total: int) -> Fold:
    """Work through a run of microbatches one after another, adding siblings as soon as both are there.

    Of the last one only the first addition is done, with which its gradient may be written at once: others wait for
    the run then, and who updates reads each partial sum once.

    Args:
        start, stop: the run.
        total: how many microbatches there are.

    >>> [(step.buffer, step.additions) for step in fold(0, 4, 4).steps]
    [(0, ()), (1, ((0, 1),)), (1, ()), (2, ((1, 2),))]
    >>> fold(0, 4, 4).final
    {Node(level=1, index=0): 0, Node(level=1, index=1): 1}
    """
    steps: list[FoldStep] = []
    final: dict[Node, int] = {}
    for node in aligned_nodes(start, stop, total):
        base = len(final)
        held: list[Node] = []  # the stack of partial sums inside this node; buffer = base + place
        for microbatch in range(node.start, min(node.stop, total)):
            held.append(Node(0, microbatch))
            additions: list[tuple[int, int]] = []
            while held[-1].level < node.level:
                top = held[-1]
                if microbatch == min(stop, total) - 1 and additions:
                    break
                if top.index & 1:
                    additions.append((base + len(held) - 2, base + len(held) - 1))
                    held[-2:] = [Node(top.level + 1, top.index >> 1)]
                elif min(top.stop, total) == total:
                    held[-1] = Node(top.level + 1, top.index >> 1)  # no right sibling: pass through
                else:
                    break
            buffer = base + len(held) - 1 + len(additions)
            steps.append(FoldStep(microbatch, buffer, tuple(additions)))
        final.update({each: base + place for place, each in enumerate(held)})
    return Fold(tuple(steps), final)
