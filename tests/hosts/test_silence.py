"""Silence is the other's only while one listens oneself: who gets no core for a while loses nobody by that."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from unisono.hosts import coordinator
from unisono.hosts import heartbeat as member
from unisono.hosts.coordinator import Coordinator
from unisono.hosts.heartbeat import Member
from unisono.hosts.left_out import why_left_out
from unisono.hosts.place import Place
from unisono.hosts.terms import Term, exchange, succeed
from waiting import until

TIMEOUT = 10.0
LONG = 3600.0


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    CLOCK_BOOTTIME = 7

    def clock_gettime(self, which: int) -> float:
        return self.now


class Store:
    """What a store keeps, in this process."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.answers = threading.Event()
        self.answers.set()

    def within(self, prefix: str) -> Store:
        """The keys of the one term of these tests; only the term itself has none before it."""
        return self

    def put(self, key: str, value: Any) -> None:
        self.answers.wait()
        self.values[key] = value

    def find(self, key: str) -> Any:
        return self.values.get(key)

    def exchange(self, key: str, before: Any, after: Any) -> Any:
        if self.values.get(key) == before:
            self.values[key] = after
        return self.values[key]

    def find_all(self, keys: Sequence[str]) -> list[Any]:
        return [self.values[key] for key in keys]

    def count(self, key: str, more: int = 0) -> int:
        self.values[key] = self.values.get(key, 0) + more
        return int(self.values[key])

    def announce(self, key: str, value: Any) -> None:
        self.put(key, value)
        self.count("news", 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (coordinator, member):
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(module, "LOOK_SECONDS" if module is coordinator else "BEAT_SECONDS", 0.001)
    return clock


def begun(store: Store) -> Term:
    """A run's first term."""
    return exchange(store, None, Term(1, 1, "a", TIMEOUT))  # type: ignore[arg-type]


def member_of(store: Store, poke: Callable[[], None]) -> Member:
    """A host that cannot be the first."""
    hello = {"host": 0, "order": 0, "name": "a", "address": "here"}
    return Member(store, begun(store), "b", hello, TIMEOUT, poke, lambda term: term, lambda: False)  # type: ignore[arg-type]


def looks(store: Store, key: str, count: int) -> None:
    """Return after so many more looks of a thread."""
    before = store.values.get(key, 0)
    until(lambda: store.values.get(key, 0) >= before + count, f"{key} grows")


def signs(store: Store, count: int) -> None:
    """Return after so many more signs of who decides."""
    before = store.values["term"]["signs"]
    until(lambda: store.values["term"]["signs"] >= before + count, "signs come")


def beating(store: Store, number: int, beats: itertools.count[int]) -> None:
    store.put(f"{number}/beat", next(beats))


def test_a_coordinator_that_slept_loses_nobody_and_one_that_listened_does(clock: Clock) -> None:
    store, beats = Store(), itertools.count(1)
    for number in (1, 2):
        beating(store, number, beats)
        store.count("arrivals", 1)
        store.put(f"report/1/{number}", {})
        store.announce(
            f"{number}/hello", {"host": number - 1, "order": number - 1, "name": str(number), "address": str(number)}
        )
    decides = Coordinator(store, begun(store), 2, TIMEOUT)  # type: ignore[arg-type]
    until(lambda: "world/1" in store.values, "both belong to the run")
    clock.now += LONG
    signs(store, 3)
    assert store.values["call"] == 1, "it slept itself"
    for _ in range(2 * int(TIMEOUT)):
        beating(store, 1, beats)
        clock.now += 0.9
        signs(store, 3)
    assert store.values["call"] == 2, "it listened, and 2 was silent"
    store.put("1/left", True)
    store.announce("2/left", True)
    signs(store, 3)
    decides.close(TIMEOUT)


def test_a_host_that_slept_is_not_cut_off_and_one_that_gets_no_answer_is(clock: Clock) -> None:
    store = Store()
    own = member_of(store, lambda: None)
    looks(store, "1/beat", 3)
    assert own.is_cut_off() is None
    clock.now += LONG
    assert own.is_cut_off() is None, "it slept itself"
    looks(store, "1/beat", 3)
    assert own.is_cut_off() is None
    store.answers.clear()
    for _ in range(2 * int(TIMEOUT)):
        clock.now += 0.9
        own.is_cut_off()
    assert own.is_cut_off() == "no answer for 10 s"
    store.answers.set()
    own.leave()


def test_a_host_for_which_nobody_decides_any_more_is_cut_off(clock: Clock) -> None:
    store, lost = Store(), threading.Event()
    own = member_of(store, lost.set)
    looks(store, "1/beat", 3)
    lost.clear()  # it was poked for the news
    while own.is_cut_off() is None:
        clock.now += 0.9
        before = store.values["1/beat"]
        until(lambda before=before: store.values["1/beat"] > before + 1 or lost.is_set(), "it looks")
    assert own.is_cut_off() == "nobody has decided anything for 10 s"
    own.leave()


def test_who_was_followed_ends_no_run_of_its_successor(clock: Clock) -> None:
    """It wakes, sees that another one decides, and comes to its end before that one's next sign of life."""
    store = Store()
    first = begun(store)
    decides = Coordinator(store, first, 1, TIMEOUT)  # type: ignore[arg-type]
    signs(store, 3)
    term = Term(**store.values["term"])
    while (followed := succeed(store, term, "b")).by != "b":  # type: ignore[arg-type]
        term = followed
    until(lambda: not decides._thread.is_alive(), "it sees that")
    assert not decides.close(TIMEOUT)
    assert store.values["term"] == {**followed.__dict__}


class Later(Store):
    """Another thread looks at the host between any two answers.

    Args:
        look: what it does.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self.look = look

    def find(self, key: str) -> Any:
        self.look()
        return super().find(key)


@pytest.mark.parametrize(
    ("key", "value", "why"), [("refused", "other code", "other code"), ("unreachable", ["c"], "host c do not")]
)
def test_who_is_left_out_knows_why_at_once(clock: Clock, key: str, value: object, why: str) -> None:
    told: list[str] = []
    place = Place(2, 3, "here", 1, False, "", "srun", "b")

    def look() -> None:
        if (failure := why_left_out(own, place, TIMEOUT, None, Path("out"))) is not None:
            told.append(failure.message)

    store = Later(lambda: None)
    own = member_of(store, lambda: None)
    store.look = look
    store.put(f"{own.number}/{key}", value)
    store.put("known/1", [own.number])
    store.put("world/1", [])
    store.announce("call", 1)
    until(lambda: own.generation is not None and told, "it hears that it is left out")
    own.leave()
    assert all(why in text for text in told)
