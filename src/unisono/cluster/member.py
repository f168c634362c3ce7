"""One host's part in a run of several: a thread keeps its heart beating in the store and hears the news."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from unisono.cluster.meeting import Store
from unisono.runtime.failure import Failure

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
        timeout: seconds for which the store may be silent.
        poke: wakes the supervisor.
    """

    def __init__(self, store: Store, order: int, name: str, timeout: float, poke: Callable[[], None]) -> None:
        self._store, self._timeout, self._poke = store, timeout, poke
        self.number = store.count("arrivals", 1)
        store.put(f"{self.number}/beat", 0)
        store.put(f"{self.number}/hello", {"order": order, "name": name})
        self.called = 0
        """The latest generation for which hosts are called together."""
        self.generation: Generation | None = None
        self.failure: dict[str, Any] | None = None
        """Why the run has failed on some host."""
        self.cut_off: str | None = None
        """Why the store cannot be reached any more."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="unisono-member", daemon=True)
        self._thread.start()

    def report(self, generation: int, what: Mapping[str, Any]) -> None:
        """This host is at rest: say what it has."""
        self._try(lambda: self._store.tell(f"report/{generation}/{self.number}", dict(what)))

    def broken(self, generation: int, host: int | None) -> None:
        """Another host of the generation (by its number in the store) cannot be reached."""
        self._try(lambda: self._store.tell(f"broken/{generation}/{self.number}", {"host": host}))

    def fail(self, host: str, failure: Failure) -> None:
        """The run fails, because of this host."""
        self._try(lambda: self._store.tell("failure", {"host": host, **asdict(failure)}))

    def leave(self) -> None:
        """This host has finished."""
        self._end.set()
        self._thread.join(self._timeout)
        self._try(lambda: self._store.put(f"{self.number}/left", True))

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (RuntimeError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        if self.cut_off is None:
            self.cut_off = str(error).splitlines()[0]
            self._poke()

    def _run(self) -> None:
        beat = news = decides = 0
        store, heard = self._store, time.monotonic()
        while not self._end.wait(BEAT_SECONDS):
            beat += 1
            started = time.monotonic()
            try:
                store.put(f"{self.number}/beat", beat)
                latest = store.count("decides")
                if latest != decides:
                    decides, heard = latest, time.monotonic()
                latest = store.count("news")
                if latest != news:
                    news = latest
                    self._hear()
            except (RuntimeError, ValueError) as error:
                self._lose(error)
                return
            if time.monotonic() - started > self._timeout:
                self._lose(TimeoutError(f"no answer for {self._timeout:g} s"))
                return
            if decides and started - heard > self._timeout:  # the store may be a launcher's, and outlive host 0
                self._lose(TimeoutError(f"nobody has decided for {self._timeout:g} s"))
                return

    def _hear(self) -> None:
        store = self._store
        called = store.find("call") or 0
        if called > self.called:
            store.put(f"{self.number}/answer", called)
            self.called = called
        hosts = store.find(f"world/{self.called}")
        if hosts is not None and (self.generation is None or self.generation.number < self.called):
            own = next((place for place, host in enumerate(hosts) if host["number"] == self.number), None)
            self.generation = Generation(self.called, tuple(hosts), own)
        self.failure = store.find("failure")
        self._poke()
