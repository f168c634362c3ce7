"""A call's batch cut into microbatches: arithmetic on positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

DEFAULT_MICROBATCHES = 8


def microbatches_of(samples: int, most: int, least_samples: int = 1) -> list[range]:
    """The samples of each microbatch: even, contiguous, none of them empty.

    Args:
        samples: of the batch; 0 gives one empty microbatch.
        most: microbatches that are wanted; a small batch has fewer.
        least_samples: of a microbatch (batch statistics need two).

    >>> microbatches_of(7, 3)
    [range(0, 2), range(2, 4), range(4, 7)]
    >>> len(microbatches_of(2, 8)), len(microbatches_of(7, 8, least_samples=2))
    (2, 3)
    """
    count = max(1, min(most, samples // least_samples))
    return [range(k * samples // count, (k + 1) * samples // count) for k in range(count)]


def runs_of(microbatches: int, workers: int) -> list[range]:
    """The microbatches of each worker: even, contiguous, none of them empty.

    >>> runs_of(8, 3), runs_of(2, 3)
    ([range(0, 2), range(2, 5), range(5, 8)], [range(0, 1), range(1, 2)])
    """
    return microbatches_of(microbatches, workers)


def candidates(sizes: Sequence[int | None]) -> Iterator[frozenset[int]]:
    """Which arguments may belong to the batch, the likeliest first: those as long as the first tensor, all of them or
    without one of them; then those of another length.

    Args:
        sizes: each argument's length along the batch's dimension; None = it has none.

    >>> [sorted(each) for each in candidates([8, None, 8, 5])]
    [[0, 2], [0], [2], [3]]
    """
    for size in dict.fromkeys(size for size in sizes if size is not None):
        alike = [place for place, each in enumerate(sizes) if each == size]
        yield frozenset(alike)
        if len(alike) > 2:
            yield from (frozenset(alike) - {each} for each in reversed(alike))
        if len(alike) > 1:
            yield from (frozenset({each}) for each in alike)
