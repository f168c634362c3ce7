"""The thread that decides who belongs to a run; it lives in the first host's supervisor, or in Ray's driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from unisono.hosts.differences import difference
from unisono.hosts.membership import Call, Gathered, Membership, Refused, Seen
from unisono.hosts.store import Store
from unisono.hosts.terms import Term, exchange
from unisono.hosts.waiting import until

LOOK_SECONDS = 0.1

LONGEST_LOOK_SECONDS = 1.0
"""More time than this between two looks was this process's own (no core, a suspended machine), not a host's silence."""


class Coordinator:
    """Carries out the policy of `Membership` by way of the store.

    Args:
        store: a client of the run's store.
        term: the one in which it decides.
        expected: hosts that the run begins with, or goes on with.
        timeout: seconds after which a silent host is lost.
        least: with fewer hosts the others wait (see `Membership`).

    Attributes:
        left_out: the orders of hosts that have belonged to the run, and without which the others have gone on.
    """

    def __init__(self, store: Store, term: Term, expected: int, timeout: float, least: int | None = None) -> None:
        self._run, self._term, self._store = store, term, store.within(str(term.number))
        self._expected = expected
        self._membership = Membership(expected, timeout, least, goes_on=term.number > term.origin)
        self._seen: dict[int, Seen] = {}
        self._news = -1
        self._belonged: set[int] = set()
        self._waiting: dict[str, Any] | None = None
        self.left_out: frozenset[int] = frozenset()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="unisono-coordinator", daemon=True)
        self._thread.start()

    def close(self, patience: float, expected: int = 0) -> bool:
        """End, but not before every host that still lives has finished.

        Args:
            patience: seconds to wait for them.
            expected: how many are to come first, where a failure must be told that was there before they were.

        Returns:
            Whether the run is over now: nobody has gone on with it, or will.
        """
        try:
            until(lambda: not self._thread.is_alive() or self._all_left(expected), patience)
            self._end.set()
            self._thread.join(patience)
            return not self._thread.is_alive() and self._sign(over=True)
        except (RuntimeError, ValueError):
            return False  # the store is gone
        finally:
            self._end.set()

    def _all_left(self, expected: int) -> bool:
        if self._membership.generation:
            return all(self._seen[number].left for number in self._membership.hosts)
        came = tuple(self._seen.values())  # and some have heard of an error before they came
        return len(came) + self._store.count("heard") >= expected and all(host.left for host in came)

    def _work(self) -> None:
        now, looked = 0.0, time.monotonic()
        try:
            while not self._end.wait(LOOK_SECONDS):
                now += min(time.monotonic() - looked, LONGEST_LOOK_SECONDS)
                looked = time.monotonic()
                if not self._sign():
                    return  # this process was frozen, and another one decides
                self._listen(now)
                self._feel(now)
                decision = self._membership.look(now, self._seen)
                if isinstance(decision, Call):
                    self._store.announce("call", decision.generation)
                elif isinstance(decision, Gathered):
                    for number, others in decision.unreachable.items():
                        self._refuse(number, others)
                    self._publish(decision)
                elif isinstance(decision, Refused):
                    self._refuse(decision.host, decision.unreachable)
                self._announce_waiting(now)
        except (RuntimeError, ValueError):
            return  # the store is gone, and hosts find that out by themselves

    def _sign(self, over: bool = False) -> bool:
        """Give a sign of life; returns whether it is still this process that decides: once not, never again."""
        wanted = replace(self._term, signs=self._term.signs + 1, over=over)
        if exchange(self._run, self._term, wanted) != wanted:
            return False
        self._term = wanted
        return True

    def _publish(self, gathered: Gathered) -> None:
        reports: list[dict[str, Any]] = [
            {"number": number, **self._seen[number].report[gathered.generation]} for number in gathered.hosts
        ]
        self._store.put(f"known/{gathered.generation}", sorted(self._seen))
        self._store.announce(f"world/{gathered.generation}", reports)
        self._belonged.update(gathered.hosts)
        out = [self._seen[number] for number in self._belonged.difference(gathered.hosts)]
        self.left_out = frozenset(host.order for host in out if not (host.left or host.gone))

    def _announce_waiting(self, now: float) -> None:
        """Leave word for whom hosts wait, where they do, as often as that changes."""
        waiting, text = self._membership.waiting(now, self._seen), None
        if waiting is not None:
            awaited = set() if self._membership.generation else set(range(self._expected))
            text = {
                "generation": self._membership.generation + 1,
                "there": self._names(waiting.there),
                "coming": self._names(waiting.coming),
                "missing": sorted(awaited - {host.host for host in self._seen.values()}),
                "wanted": waiting.wanted,
            }
        if text is not None and text != self._waiting:
            self._store.announce("waiting", text)
        self._waiting = text

    def _names(self, numbers: Iterable[int]) -> list[str]:
        return [self._seen[number].name for number in numbers]

    def _refuse(self, number: int, others: tuple[int, ...]) -> None:
        self._store.announce(f"{number}/unreachable", self._names(others))

    def _listen(self, now: float) -> None:
        """Hear every host, if there is any news."""
        news = self._store.count("news")
        if news != self._news:
            self._news = news
            for number in range(1, self._store.count("arrivals") + 1):
                self._hear(number, now)

    def _feel(self, now: float) -> None:
        """Notice whose heart has beaten: one question for all of them, however many."""
        staying = [number for number, host in self._seen.items() if not host.left]
        beats = self._store.find_all([f"{number}/beat" for number in staying])
        for number, beat in zip(staying, beats, strict=True):
            if beat != self._seen[number].beat:
                self._seen[number].beat, self._seen[number].heard = beat, now

    def _hear(self, number: int, now: float) -> None:
        store = self._store
        hello = store.find(f"{number}/hello") if number not in self._seen else None
        if hello is not None:
            self._seen[number] = Seen(hello["order"], now, hello["address"], name=hello["name"], host=hello["host"])
        host = self._seen.get(number)
        if host is None or host.left:
            return
        host.answered = store.find(f"{number}/answer") or 0
        host.left = bool(store.find(f"{number}/left"))
        host.gone = bool(store.find(f"{number}/gone"))
        coming = self._membership.generation + 1
        if coming not in host.report and (report := store.find(f"report/{coming}/{number}")) is not None:
            host.report[coming] = report
            self._compare(number, report)
        generation = self._membership.generation
        broken = store.find(f"broken/{generation}/{number}")
        if broken is not None:
            if broken["by_new"]:
                host.unreachable[generation] = broken["hosts"]
            else:
                host.broken.add(generation)
            for other in self._seen.keys() & broken["hosts"]:
                self._seen[other].suspected.add(generation)

    def _compare(self, newcomer: int, report: Mapping[str, Any]) -> None:
        """Refuse a host that comes to a run and would compute something else than the others, who go on without it."""
        generation, hosts = self._membership.generation, self._membership.hosts
        if newcomer in hosts or not hosts or report["account"] == self._seen[hosts[0]].report[generation]["account"]:
            return
        first, other = (self._store.find(f"{number}/account") for number in (hosts[0], newcomer))
        found = difference(first, other, (self._seen[hosts[0]].name, self._seen[newcomer].name))
        if found is not None:
            self._store.announce(f"{newcomer}/refused", found)
            self._seen[newcomer].left = True
