"""One host's part in a run of several: a thread keeps its heart beating in the store and hears the news."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from unisono.errors.failure import Failure
from unisono.hosts.generation import Generation
from unisono.hosts.membership import GRACE_SECONDS
from unisono.hosts.store import Store
from unisono.hosts.terms import Lease, Move, Silence, Term, latest_term, next_move
from unisono.observe.run_folder import Fenced
from unisono.runtime.rules.shutdown import Shutdown
from unisono.runtime.rules.stalls import Patience

BEAT_SECONDS = 0.1
FIRST = -1


class Member:
    """This host as the others see it.

    Args:
        store: a client of the store.
        term: in which it arrives.
        me: who this process is in the store.
        hello: its place among the hosts (the first keeps the run folder), its name, where it can be reached.
        timeout: seconds for which the store may be silent.
        poke: wakes the supervisor.
        succeed: where a term has passed: tries to make this host the first of the next one; returns the latest term.
        able: whether it can be that.
    """

    def __init__(
        self, store: Store, term: Term, me: str, hello: Mapping[str, Any], timeout: float, poke: Callable[[], None],
        succeed: Callable[[Term], Term], able: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._run, self._me, self._hello, self._timeout, self._poke = store, me, dict(hello), timeout, poke
        self._succeed, self._able = succeed, able
        self.generation: Generation | None = None
        self.failure: Failure | None = None
        """Why the run has failed on some host."""
        self.unreachable: list[str] | None = None
        """The hosts that this one cannot reach, for which the others go on without it."""
        self.refused: str | None = None
        """Why it cannot train with the others, who go on without it."""
        self.left_behind: str | None = None
        """Why the run goes on without this host, or is over."""
        self.deserted = False
        """Whether nobody decides any more, and this host cannot be the first."""
        self.ends: tuple[str, Shutdown] | None = None
        """Who was asked to end the run, and why."""
        self.waiting: dict[str, Any] | None = None
        """For whom hosts wait that have been called together."""
        self.departed: dict[str, Shutdown] = {}
        """Hosts that have left while the others went on, and why."""
        self._unsaid: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
        self._turns = 0
        """How often the store has answered all that the thread asks."""
        self._silence, self._seen, self._looked = Patience(timeout), 0, time.monotonic()
        self._lost: str | None = None
        self._end = threading.Event()
        self._arrive(term)
        self._thread = threading.Thread(target=self._work, name="unisono-member", daemon=True)
        self._thread.start()

    def _arrive(self, term: Term) -> None:
        """Come to the others of a term: whose it is first, who belonged to the one before in the same order."""
        self.term, self._store = term, self._run.within(str(term.number))
        if term.by == self._me:
            self._hello["order"] = FIRST
        elif self.generation is not None and self.generation.own is not None:
            self._hello["order"] = self.generation.own
        self.number = self._store.count("arrivals", 1)
        self._store.put(f"{self.number}/beat", 0)
        self._store.announce(f"{self.number}/hello", self._hello)
        self._suspects, self._lease = False, Lease(min(GRACE_SECONDS, term.seconds))
        self.called = (term.number, 0)
        """The latest generation for which hosts are called together."""

    def report(self, generation: tuple[int, int], what: Mapping[str, Any], account: Mapping[str, Any]) -> None:
        """This host is at rest: say what it has, and leave its account, which is read where it is not another one's."""
        self._say(generation[0], "NUMBER/account", dict(account))
        self._say(generation[0], f"report/{generation[1]}/NUMBER", dict(what))

    def broken(self, generation: tuple[int, int], hosts: Sequence[int], by_new: bool) -> None:
        """Others cannot be reached.

        Args:
            generation: of which hosts.
            hosts: who, by their numbers in the store, as far as is known.
            by_new: by new connections either.
        """
        self._say(generation[0], f"broken/{generation[1]}/NUMBER", {"hosts": [*hosts], "by_new": by_new})

    def suspect(self) -> None:
        """The first host cannot be reached: where it decides nothing either it has less time."""
        self._suspects = True

    def fail(self, host: str, failure: Failure) -> None:
        """The run fails, because of this host."""
        self._say(self.term.number, "failure", {"host": host, **asdict(failure)})

    def end(self, host: str, why: Shutdown) -> None:
        """The run ends, as this host has been asked to end it."""
        self._say(self.term.number, "ends", {"host": host, "why": why.word})

    def gone(self, number: int, why: Shutdown) -> None:
        """A host leaves, this one or another that has said so, while the others go on."""
        self._say(self.term.number, f"{number}/gone", why.word)

    def leave(self) -> None:
        """This host has finished."""
        self._say(self.term.number, "NUMBER/left", True)
        self._end.set()
        self._thread.join(self._timeout)

    @property
    def is_left_out(self) -> bool:
        """Whether the others go on without this host."""
        out = self.generation is not None and self.generation.own is None
        return out or any(why is not None for why in (self.unreachable, self.refused, self.left_behind))

    def is_cut_off(self) -> str | None:
        """Why the store cannot be reached any more, if so."""
        before, self._looked = self._looked, time.monotonic()
        if self._seen != self._turns:
            self._seen, self._silence = self._turns, Patience(self._timeout)
        silent = self._silence.spend(self._looked - before)
        if self._lost is None and silent and not self._end.is_set():
            return f"no answer for {self._timeout:g} s"
        return self._lost

    def is_safe(self) -> bool:
        """Whether nobody can have taken this host's place yet: from its last sign of life on others wait for another.

        A process that was frozen cannot know for how long, until it looks at this clock.
        """
        return _now() < self._lease.until

    def wait_until_safe(self) -> None:
        """Return once this host's place is its own for certain.

        Raises:
            Fenced: it is not.
        """
        while not self.is_safe():
            if self.left_behind or self._lost or self.unreachable or not self._thread.is_alive():
                raise Fenced(certain=self.left_behind is not None)
            time.sleep(BEAT_SECONDS)

    def _say(self, term: int, key: str, value: Any) -> None:
        """Have the thread say it: the store may never answer, and the supervisor may not wait."""
        self._unsaid.put((term, key, value))

    def _work(self) -> None:
        beat = news = 0
        looked, silence = time.monotonic(), Silence()
        try:
            while not self._end.wait(BEAT_SECONDS):
                beat += 1
                began, own, store = _now(), self.term.number, self._store
                store.put(f"{self.number}/beat", beat)
                self._speak()
                before, looked = looked, time.monotonic()
                latest = latest_term(self._run)
                silence.looked(latest, looked - before)
                self._lease.looked(began, found=silence.heard and latest is not None and latest.number == own)
                patience = GRACE_SECONDS if self._suspects else self.term.seconds
                if not self._moves(latest, silence.lasted > patience):
                    return
                if self.term.number != own:
                    news = 0
                    continue
                latest_news = store.count("news")
                if latest_news != news:
                    news = latest_news
                    self._hear()
                self._turns += 1
            self._speak()
        except (RuntimeError, ValueError) as error:
            self._lost = str(error).splitlines()[0]
            self._poke()

    def _moves(self, latest: Term | None, silent: bool) -> bool:
        """Go where the run goes on; returns whether this host goes with it."""
        own = self.term
        able = silent and self._able()
        move = next_move(own, latest, silent=silent, heard=False, me=self._me, able=able)
        if move is Move.SUCCEED and latest is not None:
            latest = self._succeed(latest)
            move = next_move(own, latest, silent=False, heard=False, me=self._me, able=able)
        if move is Move.FOLLOW and latest is not None:
            self._arrive(latest)
            self._poke()
        elif move is Move.END:
            if latest is not None and latest.over:
                self.left_behind = "the others have ended the run meanwhile"
            elif latest is not None and latest.number == own.number:
                self.deserted, self._lost = True, f"nobody has decided anything for {own.seconds:g} s"
            else:
                self.left_behind = f"it was not heard of for {own.seconds:g} s, and the others went on without it"
            self._poke()
        return move is not Move.END

    def _speak(self) -> None:
        with suppress(queue.Empty):
            while True:
                term, key, value = self._unsaid.get_nowait()
                if term == self.term.number:  # else nobody listens any more
                    self._store.announce(key.replace("NUMBER", str(self.number)), value)

    def _hear(self) -> None:
        store, term = self._store, self.term.number
        called = store.find("call") or 0
        if (term, called) > self.called:
            store.announce(f"{self.number}/answer", called)
            self.called = (term, called)
        hosts = store.find(f"world/{called}")
        self.refused = store.find(f"{self.number}/refused")  # said before the world without this host is
        self.unreachable = store.find(f"{self.number}/unreachable")
        if hosts is not None and (self.generation is None or self.generation.number < self.called):
            own = next((place for place, host in enumerate(hosts) if host["number"] == self.number), None)
            if own is not None or self.number in (store.find(f"known/{called}") or ()):  # else it came later
                self._miss({host["number"] for host in hosts})
                self.generation = Generation(self.called, tuple(hosts), own, self._accounts(hosts))
        if self.failure is None and (found := store.find("failure")) is not None:
            where = "" if found["usage"] else f"host {found['host']}: "
            self.failure = Failure(f"{where}{found['message']}", found["traceback"], found["usage"])
            store.count("heard", 1)
        self.waiting = store.find("waiting")
        ends = store.find("ends")
        why = None if ends is None else Shutdown.of(ends["why"])
        self.ends = None if why is None else (ends["host"], why)
        self._poke()

    def _miss(self, there: Collection[int]) -> None:
        """See who of the hosts before has left, by the numbers of those that are there."""
        before = self.generation.hosts if self.generation and self.generation.number[0] == self.term.number else ()
        for host in before:
            gone = None if host["number"] in there else self._store.find(f"{host['number']}/gone")
            if gone is not None and (why := Shutdown.of(gone)) is not None:
                self.departed = {**self.departed, host["name"]: why}

    def _accounts(self, hosts: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        if len({host["account"] for host in hosts}) == 1:
            return ()
        return tuple(self._store.find(f"{host['number']}/account") for host in hosts)


def _now() -> float:
    """Seconds on a clock that stands still for nobody: not while a process is stopped, nor while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
