"""Stages: as balanced as can be within the memory, and a schedule that neither blocks nor keeps more than it says."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from unisono.errors import UsageError
from unisono.partition.stages import Cost, bubble, choose, schedule

MILLISECOND = 1e-3
HAND_OVER, PER_BYTE = 2 * MILLISECOND, 0.5 * MILLISECOND

COSTS = st.lists(
    st.builds(
        lambda forward, backward, kept, crossing, free: Cost(
            forward * MILLISECOND, backward * MILLISECOND, kept, crossing, joined=not free
        ),
        st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 6), st.integers(0, 3),
    ),
    min_size=1, max_size=8,
)  # fmt: skip


def slowest(costs: list[Cost], cuts: tuple[int, ...]) -> int:
    """The time of the slowest stage in µs."""
    times = []
    for start, end in pairwise(cuts):
        time = sum(cost.forward_seconds + cost.backward_seconds for cost in costs[start:end])
        time += sum(HAND_OVER + costs[at - 1].crossing_bytes * PER_BYTE for at in (start, end) if 0 < at < len(costs))
        times.append(time)
    return round(1e6 * max(times))


def crossing(costs: list[Cost], cuts: tuple[int, ...]) -> int:
    return sum(costs[at - 1].crossing_bytes for at in cuts[1:-1])


def held(costs: list[Cost], cuts: tuple[int, ...]) -> int:
    stages = len(cuts) - 1
    return sum(
        (stages - stage) * sum(cost.activation_bytes for cost in costs[cuts[stage] : cuts[stage + 1]])
        for stage in range(stages)
    )


def all_splits(costs: list[Cost], stages: int) -> list[tuple[int, ...]]:
    places = [at for at in range(1, len(costs)) if not costs[at - 1].joined]
    return [(0, *cuts, len(costs)) for cuts in combinations(places, stages - 1)]


@given(COSTS, st.integers(1, 6), st.one_of(st.none(), st.integers(0, 120)))
def test_no_split_that_fits_is_better(costs: list[Cost], stages: int, free: int | None) -> None:
    splits = all_splits(costs, stages)
    assume(splits)
    fitting = [cuts for cuts in splits if free is None or held(costs, cuts) <= free]
    if not fitting:
        with pytest.raises(UsageError, match="fit the memory"):
            choose(costs, stages, HAND_OVER, PER_BYTE, free)
        return
    cuts = choose(costs, stages, HAND_OVER, PER_BYTE, free)
    assert cuts in fitting
    best = min((slowest(costs, other), crossing(costs, other), held(costs, other)) for other in fitting)
    assert (slowest(costs, cuts), crossing(costs, cuts), held(costs, cuts)) == best


@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=9), st.integers(2, 4))
def test_measured_times_are_balanced_as_well(seconds: list[float], stages: int) -> None:
    assume(stages <= len(seconds))
    costs = [Cost(value / 3, 2 * value / 3, 1, 0) for value in seconds]

    def longest(cuts: tuple[int, ...]) -> float:
        return max(sum(seconds[a:b]) for a, b in pairwise(cuts))

    best = min(longest(cuts) for cuts in all_splits(costs, stages))
    assert longest(choose(costs, stages, 0.0, 0.0, None)) == pytest.approx(best, rel=0, abs=1e-8)  # whole nanoseconds


def test_many_units_are_cut_soon() -> None:
    chance = random.Random(0)
    costs = [
        Cost(chance.random(), chance.random(), chance.randrange(10**6), 4096 * chance.randrange(1, 6))
        for _ in range(200)
    ]
    free = held(costs, choose(costs, 4, 50e-6, 1 / 5e9, None)) * 9 // 10
    cuts = choose(costs, 4, 50e-6, 1 / 5e9, free)
    assert held(costs, cuts) <= free
    assert len(cuts) == 5


UNIT = Cost(MILLISECOND, MILLISECOND, 1_000_000, 8)


def test_alike_splits_cross_where_the_least_crosses() -> None:
    costs = [replace(UNIT, crossing_bytes=crossing) for crossing in (8, 8, 2, 8, 8)]
    assert choose(costs, 2, 0.0, 0.0, None) == (0, 3, 5)
    costs[1] = replace(costs[1], crossing_bytes=1)
    assert choose(costs, 2, 0.0, 0.0, None) == (0, 2, 5)


def test_bytes_that_cross_take_time() -> None:
    costs = [replace(UNIT, crossing_bytes=crossing) for crossing in (8, 1_000_000, 8, 8)]
    assert choose(costs, 2, 0.0, 0.0, None) == (0, 2, 4)
    assert choose(costs, 2, 0.0, 1e-8, None) == (0, 1, 4)


def test_joined_units_stay_together() -> None:
    costs = [replace(UNIT, joined=joined) for joined in (False, True, True, False)]
    assert choose(costs, 2, 0.0, 0.0, None) == (0, 1, 4)


def test_the_first_stages_are_smaller_where_memory_is_short() -> None:
    costs = [UNIT] * 6
    assert choose(costs, 3, 0.0, 0.0, 12_000_000) == (0, 2, 4, 6)
    assert choose(costs, 3, 0.0, 0.0, 11_000_000) == (0, 1, 3, 6)
    assert choose(costs, 3, 0.0, 0.0, 9_000_000) == (0, 1, 2, 6)


@pytest.mark.parametrize(("joined", "stages", "text"), [
    ((False, False, False), 5, "5 stages were asked for, and this one can be cut at 2 places. Ask for pipeline=3 or"),
    ((False, True, False), 3, "3 stages were asked for, and this one can be cut at 1 place. Ask for pipeline=2 or"),
    ((True, True, False), 2, "2 stages were asked for, and this one can be cut at 0 places. Ask for pipeline=1 or"),
])  # fmt: skip
def test_more_stages_than_can_be_cut(joined: tuple[bool, ...], stages: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        choose([replace(UNIT, joined=one) for one in joined], stages, 0.0, 0.0, None)


def test_a_stage_exceeding_memory_is_named() -> None:
    costs = [UNIT, replace(UNIT, activation_bytes=50_000_000), UNIT]
    with pytest.raises(UsageError, match=r"at best they take 53\.0 MB, 51\.0 MB of that in stage 1 \(of 0 to 1\)"):
        choose(costs, 2, 0.0, 0.0, 52_999_999)
    assert choose(costs, 2, 0.0, 0.0, 53_000_000) == (0, 1, 3)
    with pytest.raises(UsageError, match=r"0\.0 MB are free for a pipe.*recompute"):
        choose(costs, 2, 0.0, 0.0, 0)


SIZES = [(stages, microbatches) for stages in range(1, 8) for microbatches in range(12)]


@pytest.mark.parametrize(("stages", "microbatches"), SIZES)
def test_every_microbatch_goes_forward_once_then_backward_once(stages: int, microbatches: int) -> None:
    for stage in range(stages):
        passes = schedule(stage, stages, microbatches)
        for way in ("forward", "backward"):
            assert [index for do, index in passes if do == way] == list(range(microbatches))
        in_flight = most = 0
        for do, _ in passes:
            in_flight += 1 if do == "forward" else -1
            assert in_flight >= 0
            most = max(most, in_flight)
        assert most == min(stages - stage, microbatches)
        for index in range(microbatches):
            assert passes.index(("forward", index)) < passes.index(("backward", index))


def ends(stages: int, microbatches: int) -> list[float]:
    """When each stage of a pipe has done its passes, if each takes 1, backward passes too, and hand-overs nothing.

    Fails where no stage can go on.
    """
    left = [list(schedule(stage, stages, microbatches)) for stage in range(stages)]
    done: dict[tuple[str, int, int], float] = {}
    clock = [0.0] * stages
    while any(left):
        moved = False
        for stage, passes in enumerate(left):
            while passes:
                do, index = passes[0]
                neighbour = stage - 1 if do == "forward" else stage + 1
                needed = (do, neighbour, index)
                if 0 <= neighbour < stages and needed not in done:
                    break
                clock[stage] = 1 + max(clock[stage], done.get(needed, 0.0))
                done[do, stage, index] = clock[stage]
                passes.pop(0)
                moved = True
        assert moved, f"stages wait for each other: {left}"
    return clock


@pytest.mark.parametrize(("stages", "microbatches"), SIZES)
def test_a_pipe_never_blocks_and_idles_as_predicted(stages: int, microbatches: int) -> None:
    clock = ends(stages, microbatches)
    if microbatches:
        assert 1 - 2 * microbatches / max(clock) == pytest.approx(bubble(stages, microbatches))


def test_one_process_can_own_all_stages_of_a_pipe() -> None:
    """As in debug mode, or after deaths: it does what any of its stages can do."""
    chance = random.Random(1)
    for stages, microbatches in SIZES:
        left = [list(schedule(stage, stages, microbatches)) for stage in range(stages)]
        done: set[tuple[str, int, int]] = set()
        while any(left):
            ready = []
            for stage, passes in enumerate(left):
                if passes:
                    do, index = passes[0]
                    neighbour = stage - 1 if do == "forward" else stage + 1
                    if not 0 <= neighbour < stages or (do, neighbour, index) in done:
                        ready.append(stage)
            stage = chance.choice(ready)
            do, index = left[stage].pop(0)
            done.add((do, stage, index))
