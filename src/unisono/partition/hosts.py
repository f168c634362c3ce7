"""Which host computes which microbatches, and which part of the gradients each of them sums for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

MOST_ELEMENTS = 1 << 18
"""Elements of a span at most: a few are on their way at any time, so that sending and summing overlap."""


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

    The last ones come first: a backward pass reaches the last parameters first.

    Args:
        lengths: elements of each region.
        hosts: how many hosts.

    >>> [(span.host, span.start, span.stop) for span in spans([10], 2)]
    [(0, 5, 10), (1, 0, 5)]
    """
    found = []
    for region, length in reversed(list(enumerate(lengths))):
        count = hosts * max(1, -(-length // (hosts * MOST_ELEMENTS)))
        ends = [length * k // count for k in range(count + 1)]
        for k in range(count):
            start, stop = ends[count - 1 - k], ends[count - k]
            found += [Span(k % hosts, region, start, stop)] if start < stop else []
    return found
