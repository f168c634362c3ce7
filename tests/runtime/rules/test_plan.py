"""The protocol in every order of events: no wrong state, no hang.

The model's members call the very functions that workers call and write one tag where a worker writes an array: the
round whose data it holds. A member may die in the middle of anything; the recovery policy is the supervisor's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.runtime.rules import plan as protocol
from unisono.runtime.rules.crew import Crew, Decision, Fork, Inherit, Seat
from unisono.runtime.rules.plan import (
    WAITS,
    Action,
    Do,
    Look,
    Plan,
    SlotWords,
    even,
    following,
    in_force,
    mark,
    next_action,
    owner,
)  # fmt: skip

THOROUGH = pytest.mark.thorough
TORN = -9
MICROBATCHES = 3
HOSTS = (0, MICROBATCHES, 2 * MICROBATCHES)


class Wrong(AssertionError):
    """The model reached a state that the protocol promises to avoid."""


def need(value: int, wanted: int, what: str) -> None:
    if value != wanted:
        raise Wrong(f"{what}: {value} where {wanted} is needed")


@dataclass
class World:
    """Shared memory (one chunk a slot and stage), the members at work, and the supervisor."""

    clipped: bool
    stages: int
    rounds: int
    deaths: int
    resizes: tuple[int, ...]
    copies: frozenset[int]
    crew: Crew
    most: int = 3
    words: list[SlotWords] = field(default_factory=lambda: [SlotWords()] * 3)
    sums: list[int] = field(default_factory=lambda: [-1] * 3)
    norms: list[int] = field(default_factory=lambda: [-1] * 3)
    scratch: list[int] = field(default_factory=lambda: [-1] * 3)
    slices: list[int] = field(default_factory=lambda: [0] * 6)  # parameters: a sixth each
    plans: list[Plan | None] = field(default_factory=lambda: [None, None])
    seats: tuple[int, ...] = ()
    heirs: dict[int, int] = field(default_factory=dict)
    alive: frozenset[int] = frozenset()
    unnoticed: frozenset[int] = frozenset()
    copied: int = 0
    hosts: tuple[int, ...] = ()
    exchanged: int = 0
    rotten: tuple[int, int] = (-1, -1)  # the round and the slot whose sum is not finite
    refused: bool = False
    intends: dict[int, tuple[int, Action]] = field(default_factory=dict)

    def clone(self) -> World:
        other = copy(self)
        for name in ("words", "sums", "norms", "scratch", "slices", "plans"):
            setattr(other, name, list(getattr(self, name)))
        other.heirs, other.intends = dict(self.heirs), dict(self.intends)
        return other

    def own_crew(self) -> Crew:
        """A private copy of the policy, about to change."""
        crew = copy(self.crew)
        for name in ("present", "coming", "retiring", "heirs", "strikes"):
            setattr(crew, name, getattr(crew, name).copy())
        self.crew = crew
        return crew

    @property
    def key(self) -> tuple[object, ...]:
        crew = self.crew
        return (
            tuple(self.words), tuple(self.sums), tuple(self.norms), tuple(self.scratch), tuple(self.slices),
            tuple(self.plans), self.seats, tuple(sorted(self.heirs.items())), self.alive, self.unnoticed,
            self.copied, self.exchanged, self.deaths, self.resizes, self.refused,
            tuple(sorted((m, s, a.do.name, a.chunk) for m, (s, a) in self.intends.items())),
            crew.wanted, frozenset(crew.present), frozenset(crew.coming), frozenset(crew.retiring),
        )  # fmt: skip

    def stage(self, stage: int) -> range:
        """The sixths of the parameters that belong to a stage."""
        return range(stage * 6 // self.stages, (stage + 1) * 6 // self.stages)

    def chunks(self, plan: Plan, slot: int) -> list[tuple[int, range]]:
        """(stage whose sums it waits for, sixths) of what a slot of this plan updates."""
        if self.clipped:
            return [(0, range(slot * 6 // plan.slots, (slot + 1) * 6 // plan.slots))]
        found = []
        for stage in reversed(range(self.stages)):
            takers = [taker for taker in range(plan.slots) if taker % self.stages >= stage]
            if slot in takers:
                place, parts = takers.index(slot), self.stage(stage)
                run = parts[place * len(parts) // len(takers) : (place + 1) * len(parts) // len(takers)]
                found.append((stage, run))
        return found

    def due(self, plan: Plan, slot: int) -> tuple[int, ...]:
        chunks = self.chunks(plan, slot)
        return tuple(sum(at >= stage for at, _ in chunks) for stage in range(self.stages))

    def carry_out(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Fork):
                self.alive |= {decision.member}
            elif isinstance(decision, Inherit):
                self.heirs[decision.dead] = decision.heir
            else:
                assert isinstance(decision, Seat), decision
                self.seats = decision.members

    def force(self) -> Plan:
        plan = in_force(self.plans, lambda slot: self.words[slot].committed)
        assert plan is not None
        return plan

    # -- events --------------------------------------------------------------------------------------------

    def successors(self) -> Iterator[World]:
        """Every world that one event makes of this one."""
        plan = self.force()
        if plan.stop or self.refused:
            return
        for member in sorted(self.alive):
            if member in self.intends:
                yield from self.acted(member, plan)
            else:
                yield from self.looked(member, plan)
            if self.deaths:
                yield self.died(member)
        for member in sorted(self.unnoticed):
            world = self.clone()
            world.unnoticed -= {member}
            world.carry_out(world.own_crew().died(member))
            yield world
        for member in sorted(self.crew.coming & self.alive):
            world = self.clone()
            world.carry_out(world.own_crew().joined(member))
            yield world
        if plan.copy and self.copied <= plan.round:
            for part in self.slices:
                need(part, plan.round, "a checkpoint's parameters")
            world = self.clone()
            world.copied = plan.round + 1
            yield world
        if plan.hosts and self.exchanged <= plan.round and all(w.summed > plan.round for w in self.words[: plan.slots]):
            for slot in range(plan.slots):
                need(self.sums[slot], plan.round, "partial sums under the exchange")
            world = self.clone()
            world.exchanged = plan.round + 1
            yield world
        if self.resizes:
            world = self.clone()
            world.resizes = self.resizes[1:]
            world.carry_out(world.own_crew().resize(self.resizes[0]))
            yield world

    def died(self, member: int) -> World:
        world = self.clone()
        world.deaths -= 1
        world.alive -= {member}
        world.unnoticed |= {member}
        world.intends.pop(member, None)
        return world

    def looked(self, member: int, plan: Plan) -> Iterator[World]:
        """A member decides what to do; it may act on it much later."""
        for slot in range(plan.slots):
            if owner(plan.members[slot], self.heirs.get) == member:
                look = Look(plan, self.words)
                action = next_action(look, slot, self.due(plan, slot), self.clipped, self.copied, self.exchanged)
                if action.do not in WAITS:
                    world = self.clone()
                    world.intends[member] = (slot, action)
                    yield world

    def acted(self, member: int, plan: Plan) -> Iterator[World]:
        """What it decided, whole; or, if deaths are left, cut off after each of its writes."""
        slot, action = self.intends[member]
        whole = self.clone()
        del whole.intends[member]
        for _ in whole.writes(plan, slot, action):
            if self.deaths:
                yield whole.clone().died(member)
        yield whole

    def writes(self, plan: Plan, slot: int, action: Action) -> Iterator[None]:
        """Do an action write by write."""
        now, words = plan.round, self.words[slot]
        if action.do is Do.COMPUTE:
            used = self.stage(slot % self.stages) if slot // self.stages < plan.pipes else range(0)
            for part in used:
                need(self.slices[part], now, "parameters while computing")
            self.sums[slot] = TORN
            yield
            self.sums[slot] = now
            yield
            self.words[slot] = words._replace(summed=now + 1)
        elif action.do is Do.PUBLISH_NORMS:
            self.need_other_hosts(plan)
            for other in range(plan.slots):
                need(self.sums[other], now, "partial sums under norms")
            if self.rotten == (now, slot):
                self.refused = True
                return
            self.norms[slot] = TORN
            yield
            self.norms[slot] = now
            yield
            self.words[slot] = words._replace(normed=now + 1)
        elif action.do in (Do.UPDATE, Do.RESTORE):
            self.need_other_hosts(plan)
            for chunk in range(action.chunk, action.stop):
                if self.rotten == (now, slot):
                    self.refused = True
                    return
                stage, parts = self.chunks(plan, slot)[chunk]
                if action.do is Do.RESTORE and chunk == action.chunk:
                    need(self.scratch[slot], now << 8 | chunk, "old values in scratch")
                    for part in parts:
                        self.slices[part] = TORN
                    yield
                    for part in parts:
                        self.slices[part] = now
                    yield
                else:
                    self.scratch[slot] = TORN
                    yield
                    for part in parts:
                        need(self.slices[part], now, "parameters under the update")
                    self.scratch[slot] = now << 8 | chunk
                    yield
                    self.words[slot] = self.words[slot]._replace(progress=mark(now, 2 * chunk + 1))
                    yield
                for other in range(plan.slots):
                    if other % self.stages >= stage:
                        need(self.sums[other], now, "partial sums under the update")
                    need(self.norms[other] if self.clipped else now, now, "norms under the update")
                yield from self.update_in_place(plan, slot, chunk)
        else:
            if slot == 0 and not any(other and other.round == now + 1 for other in self.plans):
                boundaries = even(MICROBATCHES, len(self.seats) // self.stages)
                stop, due = now + 1 == self.rounds, now + 1 in self.copies
                self.plans[now + 1 & 1] = None
                yield
                self.plans[now + 1 & 1] = following(plan, boundaries, self.seats, self.stages, due, 0, stop, self.hosts)
                yield
            self.words[slot] = words._replace(committed=now + 1)

    def check_refusal(self, plan: Plan) -> None:
        """The round whose gradient is not finite is in force for ever, and where the norms come first nothing of it is
        in the parameters."""
        need(self.refused, True, "a refusal")
        need(plan.round, self.rotten[0], "the round in force after a refusal")
        for part in self.slices if self.clipped else ():
            need(part, self.rotten[0], "parameters after a refusal")

    def need_other_hosts(self, plan: Plan) -> None:
        if plan.hosts:
            need(self.exchanged, plan.round + 1, "the sums over all hosts")

    def update_in_place(self, plan: Plan, slot: int, chunk: int) -> Iterator[None]:
        _, parts = self.chunks(plan, slot)[chunk]
        for part in parts:
            need(self.slices[part], plan.round, "parameters under the update")
            self.slices[part] = TORN
        yield
        for part in parts:
            self.slices[part] = plan.round + 1
        yield
        self.words[slot] = self.words[slot]._replace(progress=mark(plan.round, 2 * chunk + 2))


def explore(slots: int, rounds: int, deaths: int, resizes: tuple[int, ...] = (), clipped: bool = False,
            copies: frozenset[int] = frozenset(), stages: int = 1, hosts: tuple[int, ...] = (),
            rotten: tuple[int, int] = (-1, -1)) -> int:  # fmt: skip
    """Visit every reachable world; returns how many."""
    crew = Crew(slots)
    first = World(clipped, stages, rounds, deaths, resizes, copies, crew, hosts=hosts, rotten=rotten)
    first.carry_out(crew.begin())
    first.plans[0] = Plan(0, even(MICROBATCHES, slots // stages), first.seats, stages, hosts=hosts)
    seen, waiting = {first.key}, [first]
    while waiting:
        world = waiting.pop()
        ends = True
        for successor in world.successors():
            ends = False
            if successor.key not in seen:
                seen.add(successor.key)
                waiting.append(successor)
        if ends:
            plan = world.force()
            if rotten[0] >= 0:
                world.check_refusal(plan)
                continue
            if not plan.stop:
                raise Wrong(f"a hang: {world}")
            for part in world.slices:
                need(part, rounds, "final parameters")
    return len(seen)


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"slots": 3, "rounds": 2, "deaths": 0, "clipped": True, "copies": frozenset({1})}, 2_000),
        ({"slots": 3, "rounds": 2, "deaths": 1}, 50_000),
        ({"slots": 2, "rounds": 2, "deaths": 2, "clipped": True}, 10_000),
        ({"slots": 2, "rounds": 2, "deaths": 1, "resizes": (1,), "copies": frozenset({1})}, 5_000),
        ({"slots": 1, "rounds": 3, "deaths": 2, "resizes": (2,)}, 30_000),
        ({"slots": 2, "stages": 2, "rounds": 2, "deaths": 1, "copies": frozenset({1})}, 5_000),
        ({"slots": 2, "stages": 2, "rounds": 2, "deaths": 1, "clipped": True}, 3_000),
        ({"slots": 2, "stages": 2, "rounds": 2, "deaths": 1, "resizes": (3,)}, 20_000),
        ({"slots": 3, "stages": 3, "rounds": 2, "deaths": 0}, 2_000),
        ({"slots": 2, "rounds": 2, "deaths": 1, "hosts": HOSTS}, 3_000),
        ({"slots": 3, "rounds": 2, "deaths": 1, "rotten": (1, 1)}, 20_000),
        ({"slots": 2, "rounds": 3, "deaths": 1, "clipped": True, "copies": frozenset({1}), "rotten": (1, 0)}, 1_000),
        ({"slots": 2, "rounds": 2, "deaths": 0, "clipped": True, "copies": frozenset({1}), "hosts": HOSTS}, 200),
        pytest.param({"slots": 3, "rounds": 2, "deaths": 2}, 500_000, marks=THOROUGH),
        pytest.param({"slots": 3, "rounds": 2, "deaths": 1, "resizes": (2,), "clipped": True}, 100_000, marks=THOROUGH),
        pytest.param({"slots": 1, "rounds": 3, "deaths": 1, "resizes": (3,)}, 100_000, marks=THOROUGH),
        pytest.param({"slots": 3, "stages": 3, "rounds": 2, "deaths": 1}, 100_000, marks=THOROUGH),
    ],
    ids=str,
)
def test_no_order_of_events_goes_wrong(settings: dict[str, Any], least: int) -> None:
    assert explore(**settings) >= least


def skip_the_barrier(look: Look, slot: int, *rest: Any) -> Action:
    action = protocol.next_action(look, slot, *rest)
    return Action(Do.UPDATE, 0, 1) if action.do is Do.AWAIT_SUMS else action


def forget_the_later_stages(look: Look, slot: int, due: Any, *rest: Any) -> Action:
    return protocol.next_action(look, slot, (due[0],) * len(due), *rest)


def make_again(look: Look, slot: int, *rest: Any) -> Action:
    action = protocol.next_action(look, slot, *rest)
    return action._replace(do=Do.UPDATE) if action.do is Do.RESTORE else action


def forget_the_hosts(look: Look, slot: int, *rest: Any) -> Action:
    return protocol.next_action(Look(replace(look.plan, hosts=()), look.words), slot, *rest)


def no_heir(member: int, heir_of: Any) -> int:
    return member


def over_when_one_is(plans: Any, committed: Any) -> Plan | None:
    return protocol.in_force(plans, lambda slot: max(committed(other) for other in range(2)))


@pytest.mark.parametrize(
    ("name", "mutant", "settings", "what"),
    [
        ("next_action", skip_the_barrier, {}, "partial sums under the update"),
        ("next_action", make_again, {}, "parameters under the update"),
        ("next_action", forget_the_later_stages, {"stages": 2},
         "parameters while computing|partial sums under the update"),
        ("next_action", forget_the_hosts, {"hosts": HOSTS}, "the sums over all hosts"),
        ("owner", no_heir, {}, "a hang"),
        ("in_force", over_when_one_is, {}, "needed"),
    ],
)  # fmt: skip
def test_the_model_sees_a_broken_rule(
    monkeypatch: pytest.MonkeyPatch, name: str, mutant: Any, settings: dict[str, Any], what: str
) -> None:
    monkeypatch.setitem(globals(), name, mutant)
    with pytest.raises(Wrong, match=what):
        explore(slots=2, rounds=2, deaths=1, **settings)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**40))
def test_even_shares_differ_by_one_at_most(microbatches: int, pipes: int, stages: int, spare: int, round_: int) -> None:
    boundaries = even(microbatches, pipes)
    slots = pipes * stages + min(spare, stages - 1)
    plan = Plan(round_, boundaries, tuple(range(slots)), stages)
    for stage in range(stages):
        sizes = [len(plan.run(pipe * stages + stage)) for pipe in range(pipes)]
        assert sum(sizes) == microbatches
        assert max(sizes) - min(sizes) <= 1
    assert not any(plan.run(slot) for slot in range(pipes * stages, slots))
    assert Plan.from_words([*plan.to_words(), 17, 18]) == plan


def test_a_plan_checks_itself() -> None:
    with pytest.raises(ValueError, match="boundaries must rise"):
        Plan(0, (0, 4, 2), (0, 1))
    with pytest.raises(ValueError, match="as many members"):
        Plan(0, (0, 4), (0, 1))
    with pytest.raises(ValueError, match="2 pipes of 2 stages need as many members"):
        Plan(0, (0, 4, 8), (0, 1, 2), stages=2)


def test_of_plans_that_do_not_follow_each_other_the_later_is_in_force() -> None:
    """Two generations of hosts may lie between them."""
    early, late = Plan(1, (0, 1), (0,)), Plan(4, (0, 1), (0,))
    for plans in ([late, early], [early, late]):
        assert in_force(plans, lambda slot: 0) is late
    assert in_force([None, early], lambda slot: 9) is early
    assert in_force([None, None], lambda slot: 0) is None


@pytest.mark.parametrize(("boundaries", "members", "text"), [
    ((0,), (), "boundaries must rise"), ((-1, 2), (0,), "boundaries must rise"), ((0, 2, 1), (0, 1), "boundaries must"),
    ((0, 1, 2), (0,), "2 pipes of 1 stages need as many members"),
])  # fmt: skip
def test_what_is_no_plan(boundaries: tuple[int, ...], members: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Plan(0, boundaries, members)


def test_a_plan_as_it_is_if_nothing_is_said() -> None:
    plan = Plan(0, (0, 2, 2), (0, 1))
    assert (plan.stages, plan.copy, plan.stop, plan.asked, plan.hosts) == (1, False, False, 0, ())
    assert [plan.run(slot) for slot in range(2)] == [range(2), range(2, 2)]
    assert SlotWords() == (0, 0, 0, 0)
    assert Action(Do.DONE) == (Do.DONE, 0, 0)
