"""One host's part in a run of several: a thread keeps its heart beating in the store and hears the news."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from unisono.cluster.meeting import FAILURE, REPORT, Store
from unisono.runtime.failure import Failure
from unisono.runtime.stalls import Patience

BEAT_SECONDS = 0.1


@dataclass(frozen=True)
class Generation:
    """The hosts of a generation.

    Attributes:
        number: which generation.
        hosts: what each host said of itself, in order.
        own: this host's place among them; None = it does not belong to them any more.
    """

    number: int
    hosts: tuple[Mapping[str, Any], ...]
    own: int | None


class Member:
    """This host as the others see it.

    Args:
        store: a client of the store.
        order: its place among the hosts.
        name: how people know it.
        address: where it can be reached.
        timeout: seconds for which the store may be silent.
        poke: wakes the supervisor.
    """

    def __init__(
        self, store: Store, order: int, name: str, address: str, timeout: float, poke: Callable[[], None]
    ) -> None:
        self._store, self._timeout, self._poke = store, timeout, poke
        self.number = store.count("arrivals", 1)
        store.put(f"{self.number}/beat", 0)
        store.tell(f"{self.number}/hello", {"order": order, "name": name, "address": address})
        self.called = 0
        """The latest generation for which hosts are called together."""
        self.generation: Generation | None = None
        self.failure: dict[str, Any] | None = None
        """Why the run has failed on some host."""
        self.torn: list[str] | None = None
        """The hosts that this one cannot reach, for which the others go on without it."""
        self._unsaid: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._turns = 0
        """How often the store has answered all that the thread asks."""
        self._silence, self._seen, self._looked = Patience(timeout), 0, time.monotonic()
        self._lost: str | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="unisono-member", daemon=True)
        self._thread.start()

    def report(self, generation: int, what: Mapping[str, Any]) -> None:
        """This host is at rest: say what it has."""
        self._say(f"report/{generation}/{self.number}", dict(what))

    def broken(self, generation: int, hosts: Sequence[int], torn: bool) -> None:
        """Others cannot be reached.

        Args:
            generation: of which hosts.
            hosts: who, by their numbers in the store, as far as is known.
            torn: by new connections either.
        """
        self._say(f"broken/{generation}/{self.number}", {"hosts": [*hosts], "torn": torn})

    def fail(self, host: str, failure: Failure) -> None:
        """The run fails, because of this host."""
        self._say("failure", {"host": host, **asdict(failure)})

    def leave(self) -> None:
        """This host has finished."""
        self._say(f"{self.number}/left", True)
        self._end.set()
        self._thread.join(self._timeout)

    def is_cut_off(self) -> str | None:
        """Why the store cannot be reached any more, if so."""
        before, self._looked = self._looked, time.monotonic()
        if self._seen != self._turns:
            self._seen, self._silence = self._turns, Patience(self._timeout)
        silent = self._silence.spend(self._looked - before)
        if self._lost is None and silent and not self._end.is_set():
            return f"no answer for {self._timeout:g} s"
        return self._lost

    def _say(self, key: str, value: Any) -> None:
        """Have the thread say it: the store of a torn network may never answer, and the supervisor may not wait."""
        self._unsaid.put((key, value))

    def _run(self) -> None:
        beat = news = decides = 0
        store, looked, undecided = self._store, time.monotonic(), Patience(self._timeout)
        try:
            while not self._end.wait(BEAT_SECONDS):
                beat += 1
                store.put(f"{self.number}/beat", beat)
                self._speak()
                before, looked = looked, time.monotonic()
                latest = store.count("decides")
                if latest != decides:
                    decides, undecided = latest, Patience(self._timeout)
                elif decides and undecided.spend(looked - before):
                    # The store may be a launcher's, and outlive host 0.
                    raise ValueError(f"nobody has decided anything for {self._timeout:g} s")
                latest = store.count("news")
                if latest != news:
                    news = latest
                    self._hear()
                self._turns += 1
            self._speak()
        except (RuntimeError, ValueError) as error:
            self._lost = str(error).splitlines()[0]
            self._poke()

    def _speak(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._store.tell(*self._unsaid.get_nowait())

    def _hear(self) -> None:
        store = self._store
        called = store.find("call", int) or 0
        if called > self.called:
            store.tell(f"{self.number}/answer", called)
            self.called = called
        hosts = store.find(f"world/{self.called}", [{"number": int, **REPORT}])
        if hosts is not None and (self.generation is None or self.generation.number < self.called):
            own = next((place for place, host in enumerate(hosts) if host["number"] == self.number), None)
            self.generation = Generation(self.called, tuple(hosts), own)
        self.torn = store.find(f"{self.number}/torn", [str])
        self.failure = store.find("failure", FAILURE)
        self._poke()
