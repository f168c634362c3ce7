"""Who is the first host: in every order of looks, signs, deaths and sleeps there are never two, and in the end one.

The model's processes call the very rules that hosts call. Each read and each exchange is a step of its own. A process
that takes no step while time passes is frozen; one that takes none any more is as good as dead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.hosts.terms import Lease, Move, Silence, Term, next_move

PATIENCE = 1
"""Moments of silence after which a term has passed, and for which a lease lasts."""


@dataclass
class Process:
    """One process that may be the first host.

    Attributes:
        name: who it is.
        opens: whether it begins runs.
        own: its term.
        sign: what its thread that decides exchanges next.
        began: when its look at the store began, if it is about to read.
        wants: the term that it would follow by one of its own.
        move: how.
    """

    name: str
    opens: bool
    own: Term | None
    lease: Lease = field(default_factory=lambda: Lease(PATIENCE))
    silence: Silence = field(default_factory=Silence)
    alive: bool = True
    ended: bool = False
    sign: Term | None = None
    looked: int = 0
    began: int | None = None
    wants: Term | None = None
    move: Move | None = None

    @property
    def at_work(self) -> bool:
        return self.alive and not self.ended

    @property
    def is_first(self) -> bool:
        return self.at_work and self.own is not None and self.own.by == self.name


@dataclass
class World:
    """The store, the time and the processes."""

    processes: list[Process]
    latest: Term | None = None
    now: int = 0
    deaths: int = 0

    def steps(self) -> Iterator[tuple[str, Callable[[World], None]]]:
        """What may come next."""
        yield "time", World.tick
        for number, process in enumerate(self.processes):
            if not process.at_work:
                continue
            yield f"{process.name} looks", lambda world, n=number: world.look(world.processes[n])
            if process.is_first and process.sign is not None:
                yield f"{process.name} decides", lambda world, n=number: world.decide(world.processes[n])
            if self.deaths:
                yield f"{process.name} dies", lambda world, n=number: world.die(world.processes[n])

    def tick(self) -> None:
        self.now += 1

    def die(self, process: Process) -> None:
        process.alive = False
        self.deaths -= 1

    def exchange(self, before: Term | None, after: Term) -> Term:
        if self.latest == before:
            self.latest = after
        assert self.latest is not None
        return self.latest

    def decide(self, process: Process) -> None:
        """Give a sign; who finds another one's in its place decides nothing any more."""
        assert process.sign is not None
        wanted = replace(process.sign, signs=process.sign.signs + 1)
        process.sign = wanted if self.exchange(process.sign, wanted) == wanted else None

    def look(self, process: Process) -> None:
        """One step of a look: it begins, reads the term, and perhaps follows it by another one."""
        if process.move is not None:
            number = process.wants.number + 1 if process.wants else 1
            origin = process.wants.origin if process.wants and process.move is Move.SUCCEED else number
            latest = self.exchange(process.wants, Term(number, origin, process.name, PATIENCE))
            own, process.move, process.wants = process.own, None, None
            if latest.by == process.name:
                self.arrive(process)
            elif own is not None:
                self.go(process, next_move(own, latest, silent=False, heard=False, me=process.name, able=True))
        elif process.began is None:
            process.began = self.now
        else:
            process.silence.looked(self.latest, self.now - process.looked)
            process.looked, own = self.now, process.own
            if own is not None and self.latest is not None:
                process.lease.looked(process.began, process.silence.heard and self.latest.number == own.number)
            process.began = None
            move = next_move(
                own, self.latest, silent=process.silence.lasted > PATIENCE, heard=process.silence.heard,
                me=process.name, able=process.opens or own is not None,
            )  # fmt: skip
            if move in (Move.SUCCEED, Move.BEGIN):
                process.move, process.wants = move, self.latest
            else:
                self.go(process, move)

    def go(self, process: Process, move: Move) -> None:
        if move is Move.FOLLOW:
            self.arrive(process)
        elif move is Move.END:
            process.ended = True

    def arrive(self, process: Process) -> None:
        process.own, process.lease = self.latest, Lease(PATIENCE)
        process.sign = self.latest if process.is_first else None

    def check(self) -> None:
        """Whoever is certain to be the first host is."""
        for process in self.processes:
            if process.is_first and self.now < process.lease.until:
                assert self.latest is not None
                assert self.latest.number == process.own.number  # type: ignore[union-attr]

    def key(self) -> tuple[object, ...]:
        """What matters of it: times beside now, signs beside the latest one."""

        def beside(term: Term | None) -> object:
            return term and self.latest and (term.number, term.origin, term.by, term == self.latest)

        found: list[object] = [beside(self.latest), self.deaths]
        for each in self.processes:
            if not each.at_work:
                found.append(None)
                continue
            began = -math.inf if each.began is None else each.began
            times = ((each.lease.until, 0), (each.lease._before, PATIENCE), (each.looked, 1), (began, PATIENCE))
            near = tuple(max(time - self.now, -past) for time, past in times)
            heard = (beside(each.silence.seen), each.silence.heard, min(each.silence.lasted, PATIENCE + 1))
            found.append((beside(each.own), near, each.began is None, heard, beside(each.wants), each.move,
                          beside(each.sign), each.sign is None))  # fmt: skip
        return tuple(found)

    def settles(self) -> None:
        """From here on all that live take their steps: who is left has one first host, if anybody can be that."""
        rest = deepcopy(self)
        rest.deaths = 0
        for _ in range(8 * PATIENCE):
            rest.tick()
            for process in rest.processes:
                for _ in range(4):
                    if process.is_first and process.sign is not None:
                        rest.decide(process)
                    if process.at_work:
                        rest.look(process)
                    rest.check()
        left = [process for process in rest.processes if process.at_work]
        if any(process.opens or process.own for process in left):
            assert {process.own and process.own.number for process in left} == {rest.latest and rest.latest.number}
            assert sum(process.is_first for process in left) == 1


def started(*more: Process) -> World:
    """A run whose first host is a, with others."""
    first = Term(1, 1, "a", PATIENCE)
    return World([Process("a", True, first, sign=first), Process("b", False, first), *more], first)


def explored(world: World, terms: int) -> int:
    """Go through every order of steps until so many terms have been; returns how many states there are."""
    seen, waiting = {world.key()}, [world]
    while waiting:
        here = waiting.pop()
        if here.latest is not None and here.latest.number > terms:
            continue
        for _, step in here.steps():
            after = copy(here)
            after.processes = [
                replace(each, lease=copy(each.lease), silence=copy(each.silence)) for each in here.processes
            ]
            step(after)
            after.check()
            if (key := after.key()) not in seen:
                seen.add(key)
                waiting.append(after)
    return len(seen)


def test_of_two_hosts_never_both_are_the_first() -> None:
    assert explored(started(), 2) > 1000


@pytest.mark.thorough
@pytest.mark.parametrize("third", [Process("c", False, Term(1, 1, "a", PATIENCE)), Process("again", True, None)],
                         ids=["of three hosts", "where host 0 is started again"])  # fmt: skip
def test_one_at_most_is_the_first(third: Process) -> None:
    assert explored(started(third), 2) > 10_000


@given(st.data())
def test_in_the_end_there_is_one(data: st.DataObject) -> None:
    more = [Process("c", False, Term(1, 1, "a", PATIENCE)), Process("again", True, None)]
    world = started(*more[: data.draw(st.integers(0, 2))])
    world.deaths = 2
    for _ in range(data.draw(st.integers(0, 60))):
        _, step = data.draw(st.sampled_from(list(world.steps())), "step")
        step(world)
        world.check()
    world.settles()


def test_a_lease_is_no_longer_than_others_wait() -> None:
    lease = Lease(2.0)
    assert lease.until == -math.inf
    lease.looked(1.0, found=True)
    assert lease.until == -math.inf  # the sign may be older than any look
    lease.looked(3.0, found=True)
    assert lease.until == 3.0
    lease.looked(4.0, found=False)
    assert lease.until == 3.0


ONE, TWO = Term(1, 1, "a", 10.0), Term(2, 1, "b", 10.0)


@pytest.mark.parametrize(("own", "latest", "silent", "heard", "able", "move"), [
    (None, None, False, False, True, Move.BEGIN),
    (None, None, False, False, False, Move.WAIT),
    (None, ONE, False, True, True, Move.FOLLOW),
    (None, ONE, False, False, True, Move.WAIT),  # it may live: others may go on
    (None, ONE, True, False, True, Move.BEGIN),
    (None, ONE, True, False, False, Move.WAIT),
    (None, replace(ONE, over=True), False, True, True, Move.BEGIN),
    (ONE, ONE, False, False, True, Move.STAY),
    (ONE, ONE, True, False, True, Move.SUCCEED),
    (ONE, ONE, True, False, False, Move.END),
    (ONE, TWO, False, False, True, Move.FOLLOW),
    (ONE, replace(TWO, origin=2), False, False, True, Move.END),  # the run was begun anew
    (ONE, replace(ONE, over=True), False, False, True, Move.END),
    (ONE, replace(TWO, over=True), False, False, True, Move.END),
])  # fmt: skip
def test_what_a_process_does(
    own: Term | None, latest: Term | None, silent: bool, heard: bool, able: bool, move: Move
) -> None:
    assert next_move(own, latest, silent=silent, heard=heard, me="c", able=able) is move


def test_the_first_host_stays_however_long_it_hears_nothing_of_itself_and_ends_where_another_has_followed_it() -> None:
    assert next_move(ONE, ONE, silent=True, heard=False, me="a", able=True) is Move.STAY
    assert next_move(ONE, TWO, silent=False, heard=False, me="a", able=True) is Move.END
