"""A call's batch cut into microbatches: arithmetic on positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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


def candidates(shapes: Sequence[Sequence[int]], dim: int) -> Iterator[Mapping[int, int]]:
    """Which arguments may belong to the batch, and along which dimension they are cut, the likeliest first.

    Those as long as the first tensor: all of them; with those as long along the other of the first two dimensions (the
    state of an LSTM whose batch is first); without one of them; one of them. Then those of another length.

    Args:
        shapes: each argument's; () = it has none.
        dim: the batch's dimension.

    >>> [list(each) for each in candidates([(8, 3), (), (8,), (5,)], 0)]
    [[0, 2], [0], [2], [3]]
    >>> list(candidates([(8, 3), (2, 8, 5)], 0))[:2]
    [{0: 0}, {0: 0, 1: 1}]
    """
    other = 0 if dim else 1
    sizes = [shape[dim] if len(shape) > dim else None for shape in shapes]
    for size in dict.fromkeys(size for size in sizes if size is not None):
        first, *_ = alike = [place for place, each in enumerate(sizes) if each == size]
        yield dict.fromkeys(alike, dim)
        across = [p for p, shape in enumerate(shapes) if p != first and len(shape) > other and shape[other] == size]
        if across:
            yield dict.fromkeys(alike, dim) | dict.fromkeys(across, other)
        if len(alike) > 2:
            yield from (dict.fromkeys([place for place in alike if place != each], dim) for each in reversed(alike))
        if len(alike) > 1:
            yield from ({each: dim} for each in alike)
