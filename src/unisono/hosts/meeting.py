"""How a process comes to the other hosts: it finds the store, the term that it belongs to, and which run it is."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from unisono.errors import JobError, UnisonoError
from unisono.hosts.coordinator import Coordinator
from unisono.hosts.early_errors import check_alone, raise_failure, report_failure
from unisono.hosts.place import Place
from unisono.hosts.ports import check_drawable
from unisono.hosts.rendezvous import find_store
from unisono.hosts.store import START_SECONDS, Store, StoreAddress
from unisono.hosts.terms import Term, enter
from unisono.hosts.waiting import retry, until
from unisono.settings import Settings
from unisono.values.untrusted import Malformed


class Meeting:
    """This process where hosts meet.

    Args:
        place: where it stands among the hosts.
        settings: how it takes part.

    Attributes:
        place: the same, once it has come with the prefix of the run's keys.
        settings: the same.
        me: who this process is in the store.
        whole_store: where the store is, with the keys of all terms.
        run_store: the same with the run's keys.
        store: a client of the whole.
        term: the one to which it came.
        coordinator: what decides who belongs to the run, while that is this process.
        is_open: whether the others have heard of this host by a heartbeat: who fails then says so in another way.
    """

    whole_store: StoreAddress
    run_store: StoreAddress
    store: Store
    term: Term

    def __init__(self, place: Place, settings: Settings) -> None:
        self.place, self.settings, self.me = place, settings, uuid.uuid4().hex
        self.coordinator: Coordinator | None = None
        self._has_come = self.is_open = False

    def come(self, say: Callable[[str], None]) -> bool:
        """Find the store, and in it the term to which this process comes.

        Args:
            say: hears what is waited for.

        Returns:
            Whether a run has begun before in this store.
        """
        place, ports = self._find(say), self.settings.open_ports
        if ports is not None:
            check_drawable(ports, self.whole_store.own)
        self.term = retry(
            self._enter, f"host {place.name} waits for host 0 to begin", say, 2 * START_SECONDS,
            "See what host 0 says itself.",
        )  # fmt: skip
        self.place = replace(place, prefix=f"{place.prefix}/{self.term.origin}")
        self.run_store = replace(self.whole_store, place=self.place)
        if self.term.by == self.me:  # a driver decides itself
            self._of_run.put("key", self.me)
            self.decide(self.term, place.hosts)
        check_alone(self._of_term, place)
        self._has_come = True
        raise_failure(self._of_term)
        return self.store.count("begun") > 0

    def _find(self, say: Callable[[str], None], seconds: float = START_SECONDS) -> Place:
        timeout = self.settings.host_timeout
        place, own, self.store = find_store(self.place, self.settings.interface, timeout, say, seconds)
        self.whole_store = StoreAddress(place, own, timeout)
        return place

    def _enter(self, seconds: float = START_SECONDS) -> Term:
        opens = self.place.host == 0 and not self.place.driven
        return enter(self.store, self.me, opens, self.settings.host_timeout, seconds)

    def decide(self, term: Term, expected: int) -> None:
        """It is this process that decides in a term, over so many hosts."""
        self.coordinator = Coordinator(self.store, term, expected, self.settings.host_timeout, self.settings.min_hosts)

    @contextmanager
    def errors_reported(self) -> Iterator[None]:
        """In this block the others hear of an error, whether they have met this host or not."""
        try:
            yield
        except UnisonoError as error:
            is_known, error.is_known = error.is_known, True
            if self._has_come and not self.is_open and not is_known:
                with suppress(RuntimeError):  # the store is gone
                    self._report(error)
            raise

    def _report(self, error: UnisonoError) -> None:
        others = self.place.hosts - 1 if self.is_first else 0
        report_failure(self._of_term, self.place.name, error, others, self.settings.host_timeout)

    def report_from_outside(self, error: UnisonoError, say: Callable[[str], None]) -> None:
        """Come only to leave an error where the others hear it, no longer than they bear silence."""
        self._find(say, self.settings.host_timeout)
        self.term = self._enter(self.settings.host_timeout)
        if self.term.by == self.me:
            self.decide(self.term, self.place.hosts)  # so that the term lives, and is found
        self._report(error)
        if self.coordinator is not None:
            self.coordinator.close(0.0)

    @property
    def is_first(self) -> bool:
        """Whether this process begins the run, or begins it anew; else it follows, as long as another one is there."""
        return self.place.host == 0 if self.place.driven else self.term.by == self.me

    @property
    def _of_term(self) -> Store:
        return self.store.within(str(self.term.number))

    @property
    def _of_run(self) -> Store:
        """What stays the same as long as the run goes on, whoever decides."""
        return self.store.within(str(self.term.origin))

    def key(self) -> str | None:
        """What is in run.json of the run's folder: a host that reads it there can keep that folder."""
        found: str | None = self._of_run.find("key")
        return found

    def begin(self, run: Mapping[str, str]) -> None:
        """Say to the other hosts which run it is, in which folder: host 0 decides that for all."""
        self._of_run.put("beginning", run)
        self.store.count("begun", 1)

    def beginning(self) -> Mapping[str, str]:
        """What host 0 says in `begin`.

        Raises:
            JobError: it does not.
        """

        def look() -> Any:
            if (found := self._of_run.find("beginning")) is None:
                raise_failure(self._of_term)
            return found

        try:
            if found := until(look, START_SECONDS):
                return dict(found)
        except Malformed as error:
            raise JobError(f"host 0 says which run it is; {error}.") from error
        except RuntimeError as error:  # who serves the store has ended
            raise JobError(f"host 0 has ended before the run began: see what it says ({error}).") from error
        raise JobError(f"host 0 says which run it is, and has not for {START_SECONDS:g} s. See its text.")


@contextmanager
def errors_reported(place: Place | None, settings: Settings, say: Callable[[str], None]) -> Iterator[None]:
    """Report an error in this block to the others, unless they know of it.

    Args:
        place: where this host stands; None = it is the only one.
        settings: how it takes part.
        say: see `find_store`.
    """
    try:
        yield
    except UnisonoError as error:
        if place is not None and not error.is_known:
            with suppress(UnisonoError, RuntimeError):  # they cannot be reached
                Meeting(place, settings).report_from_outside(error, say)
        raise
