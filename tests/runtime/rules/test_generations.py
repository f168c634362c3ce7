"""Replicas in every order of events: no wrong state, no record twice or lost, no hang.

The model's workers and its supervisor call the very functions that the real ones call, and hold one tag where those
hold arrays: the round whose state it is. What a worker has folded, its replica and its group die with it; it may die in
the middle of anything, be stuck in a collective whose partner is dead, and what it had sent may arrive after its death.
The recovery policy is the supervisor's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from unisono.runtime.rules import device_actions, generations
from unisono.runtime.rules.crew import Crew, Decision, Fork, Seat
from unisono.runtime.rules.device_actions import DEVICE_WAITS, DeviceAction, DeviceLook, Own, next_device_action
from unisono.runtime.rules.generations import (
    End,
    Generation,
    ReplicaWords,
    is_over,
    next_generation,
    overdue,
    recorded,
    stamp,
)  # fmt: skip
from unisono.runtime.rules.plan import even

THOROUGH = pytest.mark.thorough
TORN = -9
MICROBATCHES = 3
RECORDS = 2

NOTHING = Own()

Did = tuple[int, int, range]
"""A generation, a round of it, and microbatches."""


class Wrong(AssertionError):
    """The model reached a state that the rule promises to avoid."""


def need(value: object, wanted: object, what: str) -> None:
    if value != wanted:
        raise Wrong(f"{what}: {value} where {wanted} is needed")


@dataclass(frozen=True)
class Process:
    """What is a worker's alone."""

    own: Own = NOTHING
    state: int = TORN
    nodes: Did | None = None
    sums: tuple[Did, ...] = ()
    intends: tuple[DeviceAction, int, Generation] | None = None
    """The action, which of the two copies it reads or writes, and the generation that it has seen."""
    stuck: bool = False


@dataclass
class World:
    """The host's shared memory, the processes, the supervisor, the disk."""

    rounds: int
    deaths: int
    resizes: tuple[int, ...]
    crew: Crew
    evaluations: frozenset[int] = frozenset()
    checkpoints: frozenset[int] = frozenset()
    rotten: tuple[int, int] = (-1, -1)  # the round and the microbatch whose row is not finite
    stuck: int = 0
    stops: int = 0
    judged: frozenset[int] = frozenset()
    verdict: int = -1  # the one of them with whose state the run ends
    crashes: int = 0
    stop: bool = False
    now: Generation | None = None
    ended: int = 0
    words: dict[int, ReplicaWords] = field(default_factory=dict)
    rows: dict[tuple[int, int], Did] = field(default_factory=dict)  # by the round's parity and the microbatch
    records: dict[tuple[int, int], int] = field(default_factory=dict)  # by the member and the entry of its ring
    copies: tuple[int, int] = (1, 0)
    areas: tuple[int, int] = (0, TORN)
    seen: int = 1
    drained: int = 0
    disk: int = 0
    seats: tuple[int, ...] = ()
    alive: dict[int, Process] = field(default_factory=dict)
    unnoticed: frozenset[int] = frozenset()
    mail: dict[tuple[str, int], Did] = field(default_factory=dict)  # by the group and the rank
    late: tuple[tuple[str, int, Did], ...] = ()
    reading: tuple[int, int] = (0, 0)  # the word and the area of the copy that the supervisor looks at
    refused: bool = False
    has_ended: bool = False

    def clone(self) -> World:
        other = copy(self)
        for name in ("words", "rows", "records", "alive", "mail"):
            setattr(other, name, dict(getattr(self, name)))
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
        crew, now = self.crew, self.now
        return (
            now, self.ended, self.copies, self.areas, self.seen, self.reading, self.drained, self.disk, self.seats,
            self.unnoticed, self.late, self.refused, self.has_ended, self.stop, self.deaths, self.resizes,
            self.stuck, self.stops, self.crashes, crew.wanted,
            frozenset(crew.present), frozenset(crew.coming), frozenset(crew.retiring),
            *(frozenset(table.items()) for table in (self.words, self.rows, self.records, self.alive, self.mail)),
        )  # fmt: skip

    @property
    def newest(self) -> int:
        return max(self.copies)

    @property
    def is_over(self) -> bool:
        return self.has_ended or is_over(self.now, self.newest, self.rounds, self.drained, self.stop)

    def carry_out(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Fork):
                self.alive[decision.member], self.words[decision.member] = Process(), ReplicaWords()
            elif isinstance(decision, Seat):
                self.seats = decision.members

    def publish(self, member: int, **words: int) -> None:
        self.words[member] = self.words[member]._replace(**words)

    # -- events --------------------------------------------------------------------------------------------

    def moves(self) -> Iterator[World]:
        """Every world that one event makes of this one which happens if nothing else does."""
        for member, process in self.alive.items():
            if process.intends:
                yield self.acted(member, process)
            elif not process.stuck:
                yield from self.looked(member, process)
                yield from self.received(member, process)
        yield from self.supervised()
        for message in self.late:
            world = self.clone()
            world.late = tuple(other for other in self.late if other is not message)
            world.mail[message[:2]] = message[2]
            yield world

    def troubles(self) -> Iterator[World]:
        """Every world that trouble makes of this one, as long as some is left."""
        for member, process in self.alive.items():
            if self.deaths:
                yield from self.cut_off(member, process)
            if self.stuck and process.own.begun and not process.own.complete and self.partner_is_dead(member):
                world = self.clone()
                world.stuck -= 1
                world.alive[member] = replace(process, stuck=True, intends=None)
                yield world
        if self.resizes:
            world = self.clone()
            world.resizes = self.resizes[1:]
            world.carry_out(world.own_crew().resize(self.resizes[0]))
            yield world
        if self.stops:
            world = self.clone()
            world.stops, world.stop = self.stops - 1, True
            yield world
        if self.crashes:
            yield begun(self, self.disk, crashes=self.crashes - 1)

    def partner_is_dead(self, member: int) -> bool:
        return (
            self.now is not None and member in self.now.members and any(m not in self.alive for m in self.now.members)
        )

    def cut_off(self, member: int, process: Process) -> Iterator[World]:
        """It dies: at once, or after each of its writes."""
        world = self.clone()
        world.deaths -= 1
        if process.intends:
            for _ in world.writes(member, *process.intends):
                between = world.clone()
                between.dies(member)
                yield between
        world = self.clone()
        world.deaths -= 1
        world.dies(member)
        yield world

    def dies(self, member: int) -> None:
        """Its device may still send what it has folded."""
        process = self.alive.pop(member)
        self.unnoticed |= {member}
        if self.now and process.own.joined == self.now.number and process.nodes:
            self.late += ((self.now.group, self.now.members.index(member), process.nodes),)

    def supervised(self) -> Iterator[World]:
        for member in sorted(self.unnoticed):
            world = self.clone()
            world.unnoticed -= {member}
            world.carry_out(world.own_crew().died(member))
            yield world
        for member in sorted(self.crew.coming & self.alive.keys()):
            world = self.clone()
            world.carry_out(world.own_crew().joined(member))
            yield world
        known = {member: self.words[member] for member in sorted(self.crew.present)}
        decision = next_generation(
            self.now, self.ended, known, self.seats, self.newest, MICROBATCHES, self.drained, self.stop
        )
        if isinstance(decision, End):
            world = self.clone()
            world.ended = decision.number
            yield world
        elif decision:
            world = self.clone()
            world.writes_generation(decision)
            yield world
        gone = {member for member in self.crew.retiring if self.now and member not in self.now.members}
        if self.now:
            gone.update(member for member in overdue(self.now, self.ended, known) if self.is_stuck(member))
        for member in sorted(gone & self.alive.keys()):
            world = self.clone()
            world.dies(member)
            yield world
        if self.now and recorded(self.now, self.words)[0] >= self.drained + RECORDS:  # before, it may be busy
            world = self.clone()
            world.drain()
            yield world
        if self.reading[0] or self.newest > self.seen:
            world = self.clone()
            world.sees_copy()
            yield world

    def is_stuck(self, member: int) -> bool:
        return member in self.alive and self.alive[member].stuck

    def writes_generation(self, decision: Generation) -> None:
        """What no process can come to see again is forgotten, so that the model stays small."""
        self.drain()
        held = max(self.words[member].held for member in self.crew.present)
        need(decision.round, max(held, self.newest) - 1, "the round that the furthest has come to")
        self.now = decision
        self.mail = {place: did for place, did in self.mail.items() if place[0] == decision.group}
        self.late = tuple(message for message in self.late if message[0] == decision.group)
        self.words = {m: words for m, words in self.words.items() if m in self.alive or m in self.crew.present}
        self.records = {place: at for place, at in self.records.items() if place[0] in self.words}
        self.rows = {}

    def drain(self) -> None:
        if self.now is None:
            return
        rounds, member = recorded(self.now, self.words)
        for number in range(self.drained, rounds):
            need(self.records.get((member, number % RECORDS)), number, "a record")
        self.drained = max(self.drained, rounds)

    def sees_copy(self) -> None:
        """It begins to look at the newest copy, or ends that."""
        word, area = self.reading
        if not word:
            self.reading = self.newest, self.copies.index(self.newest)
            return
        need((self.copies[area], self.areas[area]), (word, word - 1), "the copy that is saved")
        self.reading = 0, 0
        need([at for at in sorted(self.checkpoints) if self.seen <= at < word - 1], [], "checkpoints that were skipped")
        if word - 1 in self.checkpoints:
            self.disk = word - 1
        if word - 1 == self.verdict:
            self.has_ended = True
        else:
            self.seen = word

    def received(self, member: int, process: Process) -> Iterator[World]:
        """The group has done what it does: it knows its members and its messages, nothing else."""
        now, own = self.now, process.own
        if now is None or not own.begun or own.complete or own.joined != now.number or not process.nodes:
            return
        sums = tuple(self.mail.get((now.group, rank)) for rank in range(len(now.members)))
        if all(did and did[1] == process.nodes[1] for did in sums):
            world = self.clone()
            world.alive[member] = replace(process, own=replace(own, complete=True), sums=sums)
            yield world

    def looked(self, member: int, process: Process) -> Iterator[World]:
        """A worker decides what to do; it may act on it much later. What nobody else can see is done at once."""
        now = self.now
        if now is None or member not in now.members:
            return
        action, area = self.next_action(member, process.own, now)
        if action is DeviceAction.JOIN:
            process = replace(process, own=Own(joined=now.number))
            action, area = self.next_action(member, process.own, now)
        if action not in DEVICE_WAITS:
            world = self.clone()
            world.alive[member] = replace(process, intends=(action, area, now))
            yield world

    def next_action(self, member: int, own: Own, now: Generation) -> tuple[DeviceAction, int]:
        rank, done = now.rank(member), self.words[member].held - 1
        assert rank is not None
        words = [self.words[other] for other in now.members]
        look = DeviceLook(now, self.ended, words, self.copies, self.seen, self.drained)
        training = None if done >= self.rounds else done not in self.evaluations
        due, judged = done in self.checkpoints, done in self.judged
        action = next_device_action(look, rank, own, training, due, judged, RECORDS)
        return action, look.older if action is DeviceAction.STAGE else 1 - look.older

    def acted(self, member: int, process: Process) -> World:
        """What it decided, whole."""
        assert process.intends
        world = self.clone()
        for _ in world.writes(member, *process.intends):
            pass
        world.alive[member] = replace(world.alive[member], intends=None)
        return world

    def change(self, member: int, **changes: Any) -> None:
        self.alive[member] = replace(self.alive[member], **changes)

    def writes(self, member: int, action: DeviceAction, area: int, now: Generation) -> Iterator[None]:
        """Do an action write by write."""
        process, words = self.alive[member], self.words[member]
        rank, done = now.members.index(member), words.held - 1
        if action is DeviceAction.LEAVE:
            self.change(member, own=Own(), nodes=None, sums=())
            yield
            self.publish(member, rested=now.number)
        elif action is DeviceAction.LOAD:
            need(self.areas[area], now.round, "the copy that is loaded")
            self.change(member, state=now.round)
            yield
            self.publish(member, held=now.round + 1)
        elif action is DeviceAction.STAGE:
            need(process.state, done, "the state that is copied")
            self.put_copy(area, 0, self.areas[area])
            yield
            self.put_copy(area, 0, TORN)
            yield
            self.put_copy(area, 0, done)
            yield
            self.put_copy(area, done + 1, done)
        elif action is DeviceAction.COMPUTE:
            need(process.state, done, "the state that is computed with")
            for microbatch in now.run(rank):
                self.rows[done & 1, microbatch] = now.number, done, range(microbatch, microbatch + 1)
                yield
            if self.rotten[0] == done and self.rotten[1] in now.run(rank):
                self.publish(member, unsound=stamp(now.number, done))
                yield
            self.change(member, nodes=(now.number, done, now.run(rank)), sums=())
            self.publish(member, headed=stamp(now.number, done))
        elif action is DeviceAction.EXCHANGE:
            self.read_rows(now, done)
            assert process.nodes
            self.mail[now.group, rank] = process.nodes
            self.change(member, own=Own(now.number, stamp(now.number, done)))
        elif action is DeviceAction.FAIL:
            need(done, self.rotten[0], "the round that is refused")
            self.refused = True
        else:
            yield from self.updates(member, process, action, done, now)

    def updates(
        self, member: int, process: Process, action: DeviceAction, done: int, now: Generation
    ) -> Iterator[None]:
        assert process.nodes
        self.read_rows(now, done)
        need(process.state, done, "the state that is updated")
        if action is DeviceAction.UPDATE:
            sums = process.sums if len(now.members) > 1 else (process.nodes,)
            for did in sums:
                need(did[:2], (now.number, done), "nodes of this generation and round")
            need(sorted(m for did in sums for m in did[2]), list(range(MICROBATCHES)), "each microbatch once")
            self.change(member, state=TORN)
            yield
        self.change(member, state=done + 1, nodes=None, sums=())
        yield
        place = member, done % RECORDS
        if self.records.get(place, -1) >= self.drained:
            raise Wrong(f"a record is lost: {self.records[place]}")
        self.records[place] = done
        yield
        self.publish(member, held=done + 2)

    def put_copy(self, area: int, word: int, state: int) -> None:
        for name, value in (("copies", word), ("areas", state)):
            pair = list(getattr(self, name))
            pair[area] = value
            setattr(self, name, tuple(pair))

    def read_rows(self, now: Generation, done: int) -> None:
        for microbatch in range(MICROBATCHES):
            need(self.rows.get((done & 1, microbatch), ())[:2], (now.number, done), "a row of this round")
        need(self.rotten[0] == done, False, "a round with a row that is not finite is used")

    def check_end(self) -> None:
        if self.rotten[0] >= 0:
            need(self.refused, True, "a refusal")
            for member, process in self.alive.items():
                if self.words[member].held > self.rotten[0]:
                    need(process.state, self.rotten[0], "the state after a refusal")
            return
        self.drain()
        if self.has_ended:
            need(all(words.held <= self.verdict + 1 for words in self.words.values()), True, "none after the verdict")
            need(self.newest, self.verdict + 1, "the state of the verdict")
            need(self.drained, self.verdict, "no record after the verdict")
        need(self.areas[self.copies.index(self.newest)], self.newest - 1, "the state at the end")
        need(self.drained, self.newest - 1, "records at the end")
        need(self.stop or self.has_ended or self.drained == self.rounds, True, "all rounds done")


def begun(settings: World, at: int, **changes: Any) -> World:
    """A run that begins at a round: what is on the disk is all that there is."""
    world = replace(
        settings, crew=Crew(settings.crew.wanted), stop=False, now=None, ended=0, words={}, rows={}, records={},
        copies=(at + 1, 0), areas=(at, TORN), seen=at + 1, drained=at, disk=at, seats=(), alive={},
        unnoticed=frozenset(), mail={}, late=(), reading=(0, 0), **changes,
    )  # fmt: skip
    world.carry_out(world.crew.begin())
    return world


def explore(workers: int = 3, rounds: int = 2, deaths: int = 0, **settings: Any) -> int:
    """Visit every reachable world; returns how many."""
    first = begun(World(rounds, deaths, settings.pop("resizes", ()), Crew(workers), **settings), 0)
    seen, waiting = {first.key}, [first]
    while waiting:
        world = waiting.pop()
        if world.is_over or world.refused:
            world.check_end()
            continue
        moves = list(world.moves())
        if not moves:
            raise Wrong(f"a hang: {world}")
        for successor in (*moves, *world.troubles()):
            if successor.key not in seen:
                seen.add(successor.key)
                waiting.append(successor)
    return len(seen)


CHECKPOINT = frozenset({1})


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"workers": 3}, 500),
        ({"workers": 3, "rounds": 1, "deaths": 1}, 10_000),
        ({"workers": 2, "deaths": 1, "stuck": 1, "checkpoints": CHECKPOINT}, 10_000),
        ({"workers": 2, "rounds": 1, "deaths": 2}, 10_000),
        ({"workers": 1, "rounds": 5, "deaths": 1, "checkpoints": frozenset({1, 2, 3})}, 1_000),
        ({"workers": 2, "rounds": 4, "deaths": 1, "evaluations": frozenset({1, 2})}, 5_000),
        ({"workers": 2, "deaths": 1, "resizes": (1,)}, 10_000),
        ({"workers": 1, "rounds": 1, "resizes": (3,)}, 5_000),
        ({"workers": 2, "deaths": 1, "stops": 1}, 10_000),
        ({"workers": 2, "deaths": 1, "crashes": 1, "checkpoints": CHECKPOINT}, 10_000),
        ({"workers": 2, "deaths": 1, "rotten": (1, 0)}, 1_000),
        ({"workers": 2, "deaths": 1, "judged": frozenset({1, 2}), "verdict": 1}, 1_000),
        ({"workers": 2, "deaths": 1, "judged": frozenset({1})}, 1_000),
        pytest.param({"workers": 3, "deaths": 1}, 50_000, marks=THOROUGH),
        pytest.param({"workers": 1, "rounds": 1, "resizes": (3,), "deaths": 1}, 100_000, marks=THOROUGH),
        pytest.param({"workers": 2, "deaths": 2, "checkpoints": CHECKPOINT}, 100_000, marks=THOROUGH),
        pytest.param({"workers": 3, "deaths": 1, "resizes": (2,), "rounds": 1}, 100_000, marks=THOROUGH),
        pytest.param({"workers": 2, "deaths": 2, "stuck": 1, "rounds": 1, "resizes": (1,)}, 100_000, marks=THOROUGH),
    ],
    ids=str,
)
def test_no_order_of_events_goes_wrong(settings: dict[str, Any], least: int) -> None:
    assert explore(**settings) >= least


def instead(wrong: DeviceAction, right: DeviceAction) -> Any:
    """A rule that takes one action where the other is due."""

    def action(*arguments: Any) -> DeviceAction:
        found = device_actions.next_device_action(*arguments)
        return wrong if found is right else found

    return action


def skip_the_headers(look: DeviceLook, rank: int, *rest: Any) -> DeviceAction:
    return device_actions.next_device_action(replace(look, words=[look.words[rank]] * len(look.words)), rank, *rest)


def never_leave(look: DeviceLook, *rest: Any) -> DeviceAction:
    return device_actions.next_device_action(replace(look, ended=0), *rest)


def do_not_load(look: DeviceLook, rank: int, *rest: Any) -> DeviceAction:
    earlier = replace(look, generation=replace(look.generation, round=-1))
    return device_actions.next_device_action(earlier, rank, *rest)


def take_rotten_rows(look: DeviceLook, *rest: Any) -> DeviceAction:
    sound = [words._replace(unsound=0) for words in look.words]
    return device_actions.next_device_action(replace(look, words=sound), *rest)


def go_on_unjudged(*arguments: Any) -> DeviceAction:
    return device_actions.next_device_action(*arguments[:5], False, arguments[6])


class OverTheNewest(DeviceLook):
    """Copies are written over the newer one."""

    @property
    def older(self) -> int:
        return 1 - super().older


def do_not_await_rest(now: Any, ended: int, words: Any, *rest: Any) -> Any:
    at_rest = {member: each._replace(rested=99) for member, each in words.items()}
    return generations.next_generation(now, ended, at_rest, *rest)


def overlook_deaths(now: Any, ended: int, words: Any, seats: Any, *rest: Any) -> Any:
    decision = generations.next_generation(now, ended, words, seats, *rest)
    return None if now and isinstance(decision, End) and not set(now.members) <= words.keys() else decision


def forget_who_goes(now: Any, ended: int, words: Any, seats: Any, newest: int, *rest: Any) -> Any:
    decision = generations.next_generation(now, ended, words, seats, newest, *rest)
    if isinstance(decision, Generation) and not set(decision.members) <= set(seats):
        return Generation(decision.number, (min(words.keys() & set(seats)),), (0, MICROBATCHES), 0, newest - 1)
    return decision


def go_back_to_the_copy(*arguments: Any) -> Any:
    decision = generations.next_generation(*arguments)
    return replace(decision, round=arguments[4] - 1) if isinstance(decision, Generation) else decision


def stop_anywhere(
    now: Any, ended: int, words: Any, seats: Any, newest: int, total: int, drained: int, stop: bool
) -> Any:
    return generations.next_generation(now, ended, words, seats, newest, total, 0, stop)


def the_first_records(now: Generation, words: Any) -> tuple[int, int]:
    return generations.recorded(now, words)[0], now.members[0]


TWO, ALONE = {"workers": 2, "deaths": 1}, {"workers": 1, "deaths": 1}


@pytest.mark.parametrize(
    ("name", "mutant", "settings", "what"),
    [
        ("next_device_action", instead(DeviceAction.UPDATE, DeviceAction.AWAIT_EXCHANGE), TWO, "each microbatch once"),
        ("next_device_action", skip_the_headers, TWO, "a row of this round"),
        ("next_device_action", never_leave, TWO, "a hang"),
        ("next_device_action", do_not_load, TWO, "the state that is"),
        ("next_device_action", take_rotten_rows, {**TWO, "rotten": (1, 0)}, "not finite is used"),
        ("next_device_action", instead(DeviceAction.STAGE, DeviceAction.AWAIT_COPY),
         {"workers": 1, "rounds": 4, "checkpoints": frozenset({1, 2, 3})}, "checkpoints that were skipped"),
        ("next_device_action", instead(DeviceAction.UPDATE, DeviceAction.AWAIT_RECORDS), {**ALONE, "rounds": 4},
         "a record is lost"),
        ("next_device_action", go_on_unjudged,
         {**TWO, "rounds": 3, "judged": CHECKPOINT, "checkpoints": CHECKPOINT, "verdict": 1}, "none after the verdict"),
        ("DeviceLook", OverTheNewest, {**ALONE, "checkpoints": CHECKPOINT}, "the copy that is"),
        ("next_generation", do_not_await_rest, TWO, "needed"),
        ("next_generation", overlook_deaths, TWO, "a hang"),
        ("next_generation", forget_who_goes, {"workers": 2, "deaths": 1, "resizes": (1,)}, "the furthest has come to"),
        ("next_generation", go_back_to_the_copy, TWO, "the furthest has come to"),
        ("next_generation", stop_anywhere, {**ALONE, "stops": 1}, "a hang|records at the end"),
        ("overdue", lambda *arguments: [], {**TWO, "stuck": 1}, "a hang"),
        ("recorded", the_first_records, TWO, "a record"),
    ],
)  # fmt: skip
def test_the_model_sees_a_broken_rule(
    monkeypatch: pytest.MonkeyPatch, name: str, mutant: Any, settings: dict[str, Any], what: str
) -> None:
    monkeypatch.setitem(globals(), name, mutant)
    with pytest.raises(Wrong, match=what):
        explore(**settings)


def test_the_model_sees_that_generations_have_the_same_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Generation, "group", "the run's")
    with pytest.raises(Wrong, match=r"nodes of this generation|each microbatch once"):
        explore(workers=2, deaths=1)


def test_the_model_sees_that_words_hold_rounds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (globals(), vars(device_actions)):
        monkeypatch.setitem(module, "stamp", lambda generation, round: round + 1)
    with pytest.raises(Wrong, match="a row of this round"):
        explore(workers=2, deaths=1)


@pytest.mark.parametrize("ranks", [1, 2, 7])
def test_a_generation_comes_back_from_words(ranks: int) -> None:
    members, boundaries = tuple(range(4, 4 + ranks)), even(9, ranks)
    for source, round_, stops in ((0, 0, False), (ranks - 1, 2**40, True)):
        generation = Generation(3, members, boundaries, source, round_, stops)
        assert Generation.from_words([*generation.to_words(), 17, 18]) == generation
    assert [m for rank in range(ranks) for m in generation.run(rank)] == list(range(9))
    assert (generation.rank(4), generation.rank(3)) == (0, None)
