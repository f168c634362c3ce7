"""What processes that each have folded some microbatches send each other, so that all get the tree's sum: pure.

Vectors are cut into spans of equal length, the last one padded; each rank adds up an equal slice of each span along the
tree, from the nodes that the ranks have, and all get the slices back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unisono.gradients.hosts import nodes_of
from unisono.gradients.tree import Node, expression

MOST_BYTES = 32 << 20
"""Of a span, at most."""

GRAIN = 64
"""Bytes that slices are a multiple of."""


@dataclass(frozen=True)
class Cut:
    """How a vector is cut.

    Attributes:
        length: the vector's elements.
        ranks: how many there are.
        share: elements of a span that each of them adds up.
        spans: how many spans there are.
    """

    length: int
    ranks: int
    share: int
    spans: int

    @staticmethod
    def of(length: int, itemsize: int, ranks: int, most: int = MOST_BYTES) -> Cut:
        """Cut a vector.

        Args:
            length: its elements.
            itemsize: bytes of one.
            ranks: how many share the additions.
            most: bytes of a span.

        >>> Cut.of(100, 4, 2, most=256)
        Cut(length=100, ranks=2, share=32, spans=2)
        """
        grain = ranks * GRAIN // itemsize
        spans = -(-length // max(most // itemsize // grain * grain, grain))
        each = -(-length // max(spans * grain, 1)) * (GRAIN // itemsize)
        return Cut(length, ranks, each, -(-length // max(each * ranks, 1)))

    @property
    def span(self) -> int:
        """Elements of a span, padding included."""
        return self.share * self.ranks

    def place(self, span: int) -> slice:
        """A span's elements of the vector; those of the last one may be fewer than `span`.

        >>> Cut.of(100, 4, 2, most=256).place(1)
        slice(64, 100, None)
        """
        return slice(span * self.span, min((span + 1) * self.span, self.length))


@dataclass(frozen=True)
class Shares:
    """Who has which nodes of a round.

    Attributes:
        nodes: of each rank.
        total: microbatches that are not empty.
    """

    nodes: tuple[tuple[Node, ...], ...]
    total: int

    @staticmethod
    def of(boundaries: Sequence[int], total: int) -> Shares:
        """Those of ranks of which the k-th folds microbatches boundaries[k] … boundaries[k+1]−1.

        >>> [len(nodes) for nodes in Shares.of((0, 3, 4), 4).nodes]
        [2, 1]
        """
        return Shares(tuple(map(tuple, nodes_of(boundaries, total))), total)

    @property
    def counts(self) -> list[int]:
        """How many nodes each rank has."""
        return [len(nodes) for nodes in self.nodes]

    @property
    def first(self) -> int:
        """The rank that has the first microbatch."""
        return next(rank for rank, nodes in enumerate(self.nodes) if nodes)

    @property
    def tree(self) -> Any:
        """The sum, as nested pairs of numbers of nodes: those of rank 0 first."""
        held = [node for nodes in self.nodes for node in nodes]
        return expression(self.total, {node: (number,) for number, node in enumerate(held)})
