"""What processes are at, as their supervisor sees it: who waits for another one is told from who makes no progress."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from products import host_state
from unisono.runtime.rules.plan import Plan, even
from unisono.runtime.rules.stalls import BEGINNING, LEAVING
from unisono.runtime.supervisor.running import Running

MICROBATCHES = 4
ROUND = 5


@pytest.fixture
def run() -> Iterator[Running]:
    """Round 5 of a job with two slots and a loader; both workers own a slot and have not begun to compute."""
    with host_state(1, 2, MICROBATCHES) as state:
        state.begin(ROUND)
        described: Any = SimpleNamespace(
            layout=state.layout, program=SimpleNamespace(next=lambda _: SimpleNamespace(evaluation=None))
        )
        run = Running(described, state, lambda record: None)
        run.crew.begin()
        run.crew.joined(0)
        run.crew.joined(1)
        yield run


PLAN = Plan(ROUND, even(MICROBATCHES, 2), (0, 1))


def computes(run: Running, slot: int, microbatch: int) -> None:
    run.state.segment["computing"][slot, 0] = ROUND << 32 | microbatch + 1


def is_read(run: Running, microbatch: int) -> None:
    number = ROUND * MICROBATCHES + microbatch
    run.state.segment["ready"][number % run.described.layout.ring, 0] = number + 1


def kinds(run: Running, plan: Plan = PLAN) -> dict[int, str]:
    return {member: standing.kind for member, standing in run.standings(plan, clipped=False).items()}


def test_who_waits_for_a_loader_is_not_at_work(run: Running) -> None:
    computes(run, 0, 0)
    computes(run, 1, 2)
    is_read(run, 0)
    assert kinds(run) == {0: "compute", 1: ""}
    assert run.awaited_loaders(PLAN) == {0}
    is_read(run, 2)
    assert kinds(run) == {0: "compute", 1: "compute"}
    assert run.awaited_loaders(PLAN) == set()


def test_who_has_taken_over_a_slot_waits_for_a_loader_in_either(run: Running) -> None:
    run.state.heirs.name(1, 0)
    computes(run, 1, 2)
    assert kinds(run) == {0: ""}, "its own slot is still to be computed, once the samples of the other one are there"
    is_read(run, 2)
    assert kinds(run) == {0: "compute"}


def test_a_loader_has_work_while_it_reads_or_is_waited_for(run: Running) -> None:
    reading = run.state.segment["reading"]
    assert run.loader(0, ()).kind == BEGINNING
    reading[0, :3] = 0, 0, 1
    assert run.loader(0, ()).kind == ""
    waited_for = run.loader(0, {0})
    assert waited_for.kind == "reading"
    reading[0, 0] = ROUND << 32 | 1
    assert run.loader(0, ()).kind == "reading"
    reading[0, :3] = 0, 0, 2
    assert run.loader(0, {0}).mark != waited_for.mark, "it has read one more"
    run.loader_begins(0)
    assert run.loader(0, {0}).kind == BEGINNING


def test_who_is_left_when_the_run_is_over_is_leaving(run: Running) -> None:
    child: Any = None
    run.members = dict.fromkeys((0, 1, 2), child)
    run.crew.coming.add(2)
    assert kinds(run) == {0: "compute", 1: "compute", 2: BEGINNING}
    assert kinds(run, Plan(ROUND, PLAN.boundaries, PLAN.members, stop=True)) == {0: LEAVING, 1: LEAVING, 2: BEGINNING}
