"""A model cut into the stages of a pipe, and the order in which a stage does its passes (1F1B)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise
from typing import Literal, NamedTuple

from unisono.errors import UsageError

Pass = tuple[Literal["forward", "backward"], int]


@dataclass(frozen=True)
class Cost:
    """What a unit of the model costs for one microbatch.

    Attributes:
        forward_seconds, backward_seconds: its passes.
        activation_bytes: what its forward pass keeps for its backward pass.
        crossing_bytes: what crosses a cut after it, forward; its gradient crosses backward.
        joined: the model cannot be cut after it.
    """

    forward_seconds: float
    backward_seconds: float
    activation_bytes: int
    crossing_bytes: int
    joined: bool = False


def choose(
    costs: Sequence[Cost], stages: int, hand_over_seconds: float, seconds_per_byte: float, free_bytes: int | None
) -> tuple[int, ...]:
    """Cut a model so that its slowest stage is as fast as possible.

    A stage of the units a … b − 1 takes Σ (forward + backward) + h(a) + h(b) a microbatch, where h is
    `hand_over_seconds` + crossing bytes · `seconds_per_byte` at a cut, and 0 at the model's ends: a worker copies
    what it hands forward at its one side, and the gradient that it hands back at the other. Stage s of P keeps the
    activations of up to P − s microbatches (see `schedule`): a pipe needs Σₛ (P − s) · (activation bytes of stage s).

    The least time that every stage can keep to is found by bisection over all times that a stage can have; dynamic
    programming over (stages so far, units so far) tells whether a time can be kept to. Of the splits that keep to it
    and fit the memory, the one with the fewest crossing bytes is taken, then the one with the fewest activations.
    Times are compared in whole nanoseconds, so that stages that are alike tie.

    Args:
        costs: the units, in program order.
        stages: P.
        hand_over_seconds: of one microbatch from a stage to the next, besides its bytes.
        seconds_per_byte: of copying what crosses.
        free_bytes: what the activations of a pipe, all its stages together, may take; None = any.

    Returns:
        The cuts (0, …, number of units): stage s has the units cuts[s] … cuts[s + 1] − 1.

    Raises:
        UsageError: the model can't be cut so often, or the activations exceed the memory wherever it is cut.

    >>> unit = Cost(0.001, 0.002, activation_bytes=100, crossing_bytes=10)
    >>> choose([unit] * 4, 2, 0.0, 0.0, None)
    (0, 2, 4)
    >>> choose([unit] * 4, 2, 0.0, 0.0, 500)  # the first stage keeps two microbatches: 2 · 100 + 300
    (0, 1, 4)
    """
    model = _Model(costs, stages, hand_over_seconds, seconds_per_byte)
    if len(model.places) <= stages:
        most = len(model.places) - 1
        raise UsageError(
            f"a model has at most one stage more than places where it can be cut; {stages} stages were asked for, and "
            f"this one can be cut at {most - 1} place{'' if most == 2 else 's'}. Ask for pipeline={most} or less, or "
            "say where else it can be cut: Job(split_points=[…]) or Job(stages=[…]); see docs/layouts.md."
        )
    times = model.times()
    at = bisect_left(times, True, key=lambda limit: bool(model.splits(limit, free_bytes, ties=False)))
    if at == len(times):
        least = min(model.splits(times[-1], None), key=lambda split: split.activation_bytes)
        raise UsageError(_exceeded(model.held_bytes(least.cuts), free_bytes or 0))
    return min(model.splits(times[at], free_bytes)).cuts


def _exceeded(held: Sequence[int], free_bytes: int) -> str:
    stage = max(range(len(held)), key=held.__getitem__)
    return (
        "the activations of a pipe's stages must fit the memory that parameters, optimizer state and gradients leave; "
        f"at best they take {sum(held) / 1e6:,.1f} MB, {held[stage] / 1e6:,.1f} MB of that in stage {stage} (of 0 to "
        f"{len(held) - 1}), and {free_bytes / 1e6:,.1f} MB are free for a pipe. "
        'Compute them again instead of keeping them (recompute="blocks"), ask for fewer pipes, or set more '
        "microbatches, which makes each smaller (another result)."
    )


class _Split(NamedTuple):
    """The first stages; splits are compared in this order."""

    crossing_bytes: int
    activation_bytes: int
    cuts: tuple[int, ...]


class _Model:
    """Tables of a model's costs, and the splits that keep to limits."""

    def __init__(self, costs: Sequence[Cost], stages: int, hand_over_seconds: float, seconds_per_byte: float) -> None:
        units = len(costs)
        self.places = sorted({0, units, *(at + 1 for at in range(units - 1) if not costs[at].joined)})
        self._stages = stages
        self._work = [0, *accumulate(_nanoseconds(c.forward_seconds + c.backward_seconds) for c in costs)]
        self._activations = [0, *accumulate(c.activation_bytes for c in costs)]
        self._crossing, self._hand_over = [0] * (units + 1), [0] * (units + 1)
        for at in self.places[1:-1]:
            crossing = costs[at - 1].crossing_bytes
            self._crossing[at] = crossing
            self._hand_over[at] = _nanoseconds(hand_over_seconds + crossing * seconds_per_byte)

    def times(self) -> list[int]:
        """All times that a stage can have (ns), in order."""
        return sorted({self._time(start, end) for start, end in combinations(self.places, 2)})

    def splits(self, limit: int, free_bytes: int | None, ties: bool = True) -> list[_Split]:
        """The splits that keep to a time (ns) and to the memory and of which no other is better in every respect.

        Args:
            limit: the time.
            free_bytes: the memory.
            ties: whether crossing bytes matter; else there is one at most, which is found sooner.
        """
        last, crossing = self.places[-1], self._crossing if ties else [0] * len(self._crossing)
        found = {0: [_Split(0, 0, (0,))]}
        for stage in range(self._stages):
            longer: dict[int, list[_Split]] = {}
            for start, splits in found.items():
                for end in self._ends(start, limit):
                    if end == last or stage < self._stages - 1:
                        held = self._held(stage, start, end)
                        longer.setdefault(end, []).extend(
                            _Split(s.crossing_bytes + crossing[end], s.activation_bytes + held, (*s.cuts, end))
                            for s in splits
                        )
            found = {end: best for end, splits in longer.items() if (best := _best(splits, free_bytes))}
        return found.get(last, [])

    def held_bytes(self, cuts: Sequence[int]) -> list[int]:
        """What each stage's activations take."""
        return [self._held(stage, *ends) for stage, ends in enumerate(pairwise(cuts))]

    def _ends(self, start: int, limit: int) -> Iterator[int]:
        """Where a stage that starts here and keeps to the limit can end."""
        for end in self.places[bisect_right(self.places, start) :]:
            if self._work[end] - self._work[start] > limit:
                return  # more units only take longer
            if self._time(start, end) <= limit:
                yield end

    def _time(self, start: int, end: int) -> int:
        return self._work[end] - self._work[start] + self._hand_over[start] + self._hand_over[end]

    def _held(self, stage: int, start: int, end: int) -> int:
        return (self._stages - stage) * (self._activations[end] - self._activations[start])


def _best(splits: Iterable[_Split], free_bytes: int | None) -> list[_Split]:
    """Without those that don't fit, and those that have neither fewer crossing bytes nor fewer activations."""
    best: list[_Split] = []
    for split in sorted(splits):
        fits = free_bytes is None or split.activation_bytes <= free_bytes
        if fits and (not best or split.activation_bytes < best[-1].activation_bytes):
            best.append(split)
    return best


def _nanoseconds(seconds: float) -> int:
    return round(1e9 * seconds)


def schedule(stage: int, stages: int, microbatches: int) -> tuple[Pass, ...]:
    """The passes of a stage in their order, one forward, one backward (1F1B).

    Stage s of P begins with P − 1 − s forward passes, goes on with one forward and one backward pass by turns, and ends
    with the backward passes that are left. So at most P − s microbatches are between their two passes, whatever the
    number of microbatches.

    Args:
        stage: s, counted from 0.
        stages: P.
        microbatches: m.

    Returns:
        ("forward" or "backward", index of the microbatch), each of both exactly once.

    >>> schedule(0, 2, 3)
    (('forward', 0), ('forward', 1), ('backward', 0), ('forward', 2), ('backward', 1), ('backward', 2))
    >>> schedule(1, 2, 2)
    (('forward', 0), ('backward', 0), ('forward', 1), ('backward', 1))
    """
    ahead = min(stages - 1 - stage, microbatches)
    passes: list[Pass] = [("forward", index) for index in range(ahead)]
    for index in range(microbatches):
        if ahead + index < microbatches:
            passes.append(("forward", ahead + index))
        passes.append(("backward", index))
    return tuple(passes)


def bubble(stages: int, microbatches: int) -> float:
    """The share of a step's passes in which a stage has nothing to do: (P − 1) / (m + P − 1).

    It counts stages that are equally fast: a step then takes the time of m + P − 1 microbatches in one stage.

    Args:
        stages: P.
        microbatches: m.

    >>> bubble(2, 4), bubble(1, 8)
    (0.2, 0.0)
    """
    return (stages - 1) / (microbatches + stages - 1)
