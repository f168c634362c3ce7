"""Hosts that are told to go, die or come, in every order of events: no hang, nobody in two minds, no step lost.

The hosts of this model share rounds out, exchange why they are to go, come to rest and meet anew; what they decide is
what `Membership` and `fate` say, the very functions that hosts call.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from unisono.hosts.membership import Call, Gathered, Membership, Seen
from unisono.runtime.rules import shutdown
from unisono.runtime.rules.shutdown import Fate, Shutdown, fate

THOROUGH = pytest.mark.thorough
TIMEOUT = 5.0
TICK = 3.0
LEAVE, STOP = Shutdown(True, 15), Shutdown(False, 15)


class Wrong(AssertionError):
    """The model reached a state that must not be."""


@dataclass
class Host:
    """One host: what it does, and what it has done.

    Attributes:
        rounds: rounds done.
        at: "works", "waits" (for the others' part of the round), "rests", or how it ended.
        generation: the hosts that it works with.
        told: why it is to go, if it was told so.
    """

    rounds: int = 0
    at: str = "rests"
    generation: int = 0
    told: Shutdown | None = None

    @property
    def lives(self) -> bool:
        return self.at in ("works", "waits", "rests")


@dataclass
class World:
    """All hosts, the store, and who decides."""

    last: int
    events: tuple[tuple[str, int], ...]
    membership: Membership
    hosts: dict[int, Host] = field(default_factory=dict)
    seen: dict[int, Seen] = field(default_factory=dict)
    now: float = 0.0
    called: int = 0
    worlds: dict[int, tuple[int, ...]] = field(default_factory=dict)
    said: dict[tuple[int, int, int], Shutdown | None] = field(default_factory=dict)  # generation, round, host
    ends: bool = False

    def clone(self) -> World:
        other = copy(self)
        other.membership = copy(self.membership)
        other.membership._known = set(self.membership._known)
        other.hosts = {number: copy(host) for number, host in self.hosts.items()}
        other.seen = {}
        for number, each in self.seen.items():
            other.seen[number] = copy(each)
            for name in ("report", "suspected", "broken"):
                setattr(other.seen[number], name, getattr(each, name).copy())
        other.worlds, other.said = dict(self.worlds), dict(self.said)
        return other

    @property
    def key(self) -> tuple[object, ...]:
        """What can still make a difference."""
        m = self.membership
        needed = {(host.generation, host.rounds) for host in self.hosts.values() if host.lives}
        said = frozenset((mine, why) for mine, why in self.said.items() if mine[:2] in needed)
        hosts = tuple((h.rounds, h.at, h.generation if h.lives else 0, h.told) for h in self.hosts.values())
        seen = tuple(
            (s.left, s.gone) if s.left or s.gone else
            (s.heard, s.answered, self.called in s.report, m.generation in s.suspected, m.generation in s.broken)
            for s in self.seen.values()
        )  # fmt: skip
        decides = (m.generation, m.hosts, m._called_at, m._enough_at, frozenset(m._known))
        return self.events, self.now, self.called, self.ends, self.worlds.get(self.called), decides, said, hosts, seen

    def successors(self) -> Iterator[World]:
        """Every world that one event makes of this one."""
        yield from self.decided()
        for number, host in self.hosts.items():
            if host.lives:
                yield from self.acted(number, host)
        for index, (what, number) in enumerate(self.events):
            if what == "comes" or self.hosts[number].lives:
                world = self.clone()
                world.events = self.events[:index] + self.events[index + 1 :]
                world.happens(what, number)
                yield world

    def happens(self, what: str, number: int) -> None:
        if what == "comes":
            self.hosts[number], self.seen[number] = Host(), Seen(number, self.now, str(number))
        elif what == "dies":
            self.hosts[number].at = "dead"
        else:
            self.hosts[number].told = LEAVE if what == "leaves" else STOP

    def decided(self) -> Iterator[World]:
        world = self.clone()
        decision = world.membership.look(world.now, world.seen)
        if isinstance(decision, Call):
            world.called = decision.generation
            yield world
        elif isinstance(decision, Gathered):
            world.check(decision)
            world.worlds[decision.generation] = decision.hosts
            yield world
        elif any(h.at == "dead" and not self.seen[n].gone for n, h in self.hosts.items()) and self.now < 3 * TICK:
            world.now += TICK  # who is dead is not heard of; else nobody waits for time to pass
            for number, host in self.hosts.items():
                if host.lives:
                    world.seen[number].heard = world.now
            yield world

    def check(self, gathered: Gathered) -> None:
        """Who goes on is who should, and stands where the others do."""
        if any(self.seen[number].gone or self.seen[number].left for number in gathered.hosts):
            raise Wrong("one that leaves is counted on")
        ending = any(host.at == "ended" for host in self.hosts.values())
        if len(gathered.hosts) < (self.membership.least or 1) and not ending:
            raise Wrong("too few hosts go on")
        before = self.worlds.get(gathered.generation - 1, ())
        rounds = [self.hosts[number].rounds for number in gathered.hosts if number in before]
        if rounds and max(rounds) - min(rounds) > 1:
            raise Wrong("hosts are more than one round apart")

    def leave(self, number: int, how: str) -> None:
        self.hosts[number].at, self.seen[number].left = how, True
        self.seen[number].gone = self.seen[number].gone or how == "left"

    def changed(self, number: int) -> tuple[World, Host]:
        world = self.clone()
        return world, world.hosts[number]

    def acted(self, number: int, host: Host) -> Iterator[World]:
        """What one host may do next; where it is to go and its patience is over, that at any moment."""
        if host.told is STOP or self.ends:
            world, _ = self.changed(number)
            world.ends = True
            world.leave(number, "ended")
            yield world
        elif host.told is LEAVE:
            world, _ = self.changed(number)
            world.leave(number, "left")
            yield world
        if host.at == "rests":
            yield from self.rested(number, host)
        else:
            yield from self.worked(number, host)

    def rested(self, number: int, host: Host) -> Iterator[World]:
        """It reports where it is called, and begins where all have."""
        if self.called > self.seen[number].answered:
            world, _ = self.changed(number)
            world.seen[number].answered = self.called
            world.seen[number].report[self.called] = {"rounds": host.rounds}
            yield world
        elif self.called in self.worlds:
            world, own = self.changed(number)
            if number not in self.worlds[self.called]:
                own.at = "out"
            else:
                own.rounds = max(self.seen[n].report[self.called]["rounds"] for n in self.worlds[self.called])
                own.at, own.generation = "works", self.called
            yield world

    def worked(self, number: int, host: Host) -> Iterator[World]:
        members, mine = self.worlds[host.generation], (host.generation, host.rounds)
        if host.at == "works":
            world, own = self.changed(number)
            own.at = "waits"
            world.said[*mine, number] = STOP if self.ends else host.told
            yield world
        elif all((*mine, other) in self.said for other in members):
            world, own = self.changed(number)
            world.commit(number, own, members)
            yield world
        others = [
            self.hosts[n] for n in members if self.hosts[n].generation >= host.generation or not self.hosts[n].lives
        ]
        gone = (not each.lives or each.generation > host.generation or each.at == "rests" for each in others)
        if any(gone):
            world, _ = self.changed(number)  # its connections break: what it waits for may never come
            world.seen[number].broken.add(host.generation)
            for other in members:
                if self.hosts[other].at == "dead":
                    world.seen[other].suspected.add(host.generation)
            yield world
        if self.called > host.generation:
            world, own = self.changed(number)
            own.at = "rests"
            yield world

    def commit(self, number: int, host: Host, members: tuple[int, ...]) -> None:
        said = [self.said[host.generation, host.rounds, other] for other in members]
        host.rounds, host.at = host.rounds + 1, "works"
        if host.rounds == self.last:
            self.leave(number, "ended")
        elif any(each is not None for each in said):
            found = fate(said, members.index(number))
            for place in shutdown.leavers(said):
                self.seen[members[place]].gone = True
            if found is Fate.GOES_ON:
                host.at = "rests"
            else:
                self.leave(number, "left" if found is Fate.LEAVES else "ended")

    def check_end(self) -> None:
        """Nothing can happen any more: all that live wait for more hosts, or the run is over as it should be."""
        waiting = [number for number, host in self.hosts.items() if host.lives]
        if waiting and len(waiting) >= (self.membership.least or 1):
            raise Wrong(f"a hang: {self}")
        done = [host.rounds for host in self.hosts.values() if host.at == "ended"]
        told = [host.told for host in self.hosts.values() if host.at not in ("dead", "out")]
        asked = self.ends or STOP in told or all(told)
        if not waiting and not asked and max(done, default=0) < self.last:
            raise Wrong(f"the run ended early: {self}")


def explore(hosts: int, events: tuple[tuple[str, int], ...], rounds: int = 2, least: int | None = None) -> int:
    """Visit every reachable world; returns how many. Host 1 keeps the run folder: it may only end the run."""
    first = World(rounds, events, Membership(hosts, TIMEOUT, least))
    for number in range(1, hosts + 1):
        first.happens("comes", number)
    assert first.membership.look(0.0, first.seen) == Call(1)
    for number, each in first.seen.items():
        each.answered, each.report[1] = 1, {"rounds": 0}
        first.hosts[number] = Host(at="works", generation=1)
    gathered = first.membership.look(0.0, first.seen)
    assert isinstance(gathered, Gathered)
    first.called, first.worlds = 1, {1: gathered.hosts}
    seen, waiting = {first.key}, [first]
    while waiting:
        world, ends = waiting.pop(), True
        for successor in world.successors():
            if (key := successor.key) != world.key:
                ends = False
                if key not in seen:
                    seen.add(key)
                    waiting.append(successor)
        if ends:
            world.check_end()
    return len(seen)


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"hosts": 2, "events": (("leaves", 2),)}, 200),
        ({"hosts": 2, "events": (("leaves", 2), ("dies", 2))}, 1_000),
        ({"hosts": 2, "events": (("stops", 1), ("leaves", 2))}, 1_000),
        ({"hosts": 2, "events": (("leaves", 1), ("leaves", 2))}, 1_000),
        ({"hosts": 2, "events": (("leaves", 2), ("comes", 3)), "rounds": 1, "least": 2}, 2_000),
        ({"hosts": 3, "events": (("leaves", 2),), "rounds": 1}, 1_000),
        pytest.param({"hosts": 2, "events": (("leaves", 2), ("comes", 3)), "least": 2}, 5_000, marks=THOROUGH),
        pytest.param({"hosts": 3, "events": (("leaves", 2), ("leaves", 3))}, 5_000, marks=THOROUGH),
        pytest.param({"hosts": 3, "events": (("leaves", 2), ("dies", 3)), "rounds": 1}, 5_000, marks=THOROUGH),
        pytest.param({"hosts": 3, "events": (("leaves", 2), ("dies", 3)), "least": 2}, 5_000, marks=THOROUGH),
    ],
    ids=str,
)
def test_no_order_of_events_goes_wrong(settings: dict[str, Any], least: int) -> None:
    assert explore(**settings) >= least


def all_leave(asked: Any, own: int) -> Fate:
    return Fate.LEAVES


def leaving_is_ending(asked: Any, own: int) -> Fate:
    found = shutdown.fate(asked, own)
    return Fate.ENDS if found is Fate.GOES_ON else found


@pytest.mark.parametrize("mutant", [all_leave, leaving_is_ending])
def test_the_model_sees_that_too_many_go(monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    monkeypatch.setitem(globals(), "fate", mutant)
    with pytest.raises(Wrong, match="the run ended early"):
        explore(2, (("leaves", 2),))


def test_the_model_sees_that_a_leaver_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Membership._wanted

    def blind(self: Membership, now: float, called_at: float, seen: dict[int, Seen]) -> list[int]:
        return wanted(self, now, called_at, {number: replace(each, gone=False) for number, each in seen.items()})

    monkeypatch.setattr(Membership, "_wanted", blind)
    with pytest.raises(Wrong, match=r"one that leaves is counted on|a hang"):
        explore(2, (("leaves", 2), ("dies", 2)))


def test_the_model_sees_that_too_few_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Membership, "_wanted_count", lambda *where: 1)
    with pytest.raises(Wrong, match="too few hosts go on"):
        explore(2, (("leaves", 2),), least=2)
