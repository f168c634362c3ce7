"""Shares that follow measured speed: a slow worker takes fewer microbatches; the result cannot change."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace
from itertools import accumulate

from unisono.runtime.rules.plan import even

SMOOTHING = 0.2
"""Weight of the newest measurement."""

WORTH = 0.9
"""New shares are taken only if they shorten the longest slot's time to this part of it."""


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def smoothed(pace: Sequence[float], boundaries: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """Seconds per microbatch of each slot, averaged over past rounds.

    Args:
        pace: what is known so far (0 = nothing), by slot.
        boundaries: who computed what in this round.
        seconds: of each non-empty microbatch.

    >>> smoothed([0.0, 2.0], (0, 1, 3), [1.0, 3.0, 3.0])
    [1.0, 2.2]
    """
    result = list(pace)
    for slot in range(len(pace)):
        own = seconds[boundaries[slot] : boundaries[slot + 1]]
        if own:
            now = _middle(own)
            result[slot] = now if pace[slot] == 0 else pace[slot] + SMOOTHING * (now - pace[slot])
    return result


def balanced(
    microbatches: int, slots: int, pace: Sequence[float], before: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The boundaries of the next round.

    Every slot keeps at least one microbatch: who gets none is never measured again.

    Args:
        microbatches: how many there are.
        slots: how many slots.
        pace: seconds per microbatch of each slot; 0 = not known.
        before: the present boundaries, kept unless others are clearly better; None = a new world.

    >>> balanced(8, 2, [1.0, 1.05], (0, 4, 8)), balanced(8, 2, [1.0, 3.0], (0, 4, 8))
    ((0, 4, 8), (0, 6, 8))
    """
    present = tuple(before) if before else even(microbatches, slots)
    known = [value for value in pace if value > 0]
    if len(known) < slots or microbatches <= slots:
        return present
    counts = _shared(microbatches, pace)
    new = max(count * seconds for count, seconds in zip(counts, pace, strict=True))
    old = max((present[k + 1] - present[k]) * pace[k] for k in range(slots))
    return (0, *accumulate(counts)) if new < WORTH * old else present


def _shared(microbatches: int, pace: Sequence[float]) -> list[int]:
    """One microbatch for each slot; each further one for the slot that would end first with it, the left one of equals.

    Within `level` seconds the slots can do at most as many as there are to hand out. So each slot gets what it can do
    by then at once, and only the rest, less than two a slot, is handed out one by one.
    """
    level = (microbatches - len(pace)) / sum(1 / seconds for seconds in pace)
    counts = [max(1, int(level / seconds)) for seconds in pace]
    ends = [((count + 1) * seconds, slot) for slot, (count, seconds) in enumerate(zip(counts, pace, strict=True))]
    heapify(ends)
    for _ in range(microbatches - sum(counts)):
        slot = ends[0][1]
        counts[slot] += 1
        heapreplace(ends, ((counts[slot] + 1) * pace[slot], slot))
    return counts


def laggards(pace: Sequence[float], factor: float = 1.5) -> dict[int, float]:
    """The slots that are slower than the median by at least this factor, and how much.

    >>> laggards([1.0, 1.0, 2.5]), laggards([1.0, 2.0])
    ({2: 2.5}, {1: 2.0})
    """
    known = [value for value in pace if value > 0]
    usual = _middle(known) if known else 0.0
    return {k: round(v / usual, 1) for k, v in enumerate(pace) if usual and v >= factor * usual}
