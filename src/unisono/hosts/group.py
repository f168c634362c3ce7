"""This host among the others of a run: they come together, generation after generation, and exchange by a link."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from unisono.errors import JobError
from unisono.errors.failure import Failure
from unisono.hosts.data_server import DataServer
from unisono.hosts.departures import Departures
from unisono.hosts.differences import account_digest
from unisono.hosts.generation import Generation, waiting_text
from unisono.hosts.heartbeat import Member
from unisono.hosts.left_out import why_left_out
from unisono.hosts.link_client import LinkClient, Setup
from unisono.hosts.meeting import Meeting
from unisono.hosts.shared_folder import manifest
from unisono.hosts.snapshot import state_digest
from unisono.hosts.terms import Term, succeed
from unisono.hosts.waiting import SAY_SECONDS, until
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.processes.source import Source
from unisono.runtime.rules.shutdown import Shutdown, leavers
from unisono.runtime.state.host_shares import HostShares
from unisono.runtime.state.host_state import HostState
from unisono.runtime.supervisor.other_hosts import Joined, Own
from unisono.runtime.supervisor.watcher import Listener
from unisono.values.untrusted import Malformed

LOOK_SECONDS = 0.02


class HostGroup:
    """This host among the others; see `Companions`.

    Args:
        meeting: where it has come to them.
        account: this host's (see `differences`), from the prepared job.
        folder: the run folder, whether it is seen here or not.
        source: where the job comes from, where this host reads the data for the others.
    """

    def __init__(
        self, meeting: Meeting, account: Callable[[Described], Mapping[str, Any]], folder: Path, source: Source | None
    ) -> None:
        self._meeting, self._settings, self.place, self._source = meeting, meeting.settings, meeting.place, source
        self._account_of, self._folder = account, folder.absolute()
        self._serves_data = self._settings.data_host == self.place.host
        self._data_server: DataServer | None = None
        self._generation: Generation | None = None
        self._link: LinkClient | None = None
        self._account: dict[str, Any] = {}
        self._has_state = True
        """Whether this host's state is that after some round: not while another one's comes in."""
        self._is_settled = False

    def open(self, selector: selectors.BaseSelector, poke: Callable[[], None], listener: Listener) -> None:
        """See `Companions`."""
        meeting, place, store = self._meeting, self.place, self._meeting.whole_store
        self._selector, self._departures = selector, Departures(listener.message)
        begins = place.driven or meeting.term.number == meeting.term.origin
        order = place.host if begins else place.hosts + place.host  # after all who belong to it
        hello = {"host": place.host, "order": order, "name": place.name, "address": store.own}
        self._member = Member(
            meeting.whole_store.client(),
            meeting.term,
            meeting.me,
            hello,
            self._settings.host_timeout,
            poke,
            self._succeed,
            self._able,
        )
        meeting.is_open = True
        if self._source is not None:
            self._data_server = DataServer(self._source, meeting.run_store)

    # -- the first host ------------------------------------------------------------------------------------

    def _able(self) -> bool:
        """Whether this host can be the first if that one is lost."""
        key = self._meeting.key()
        return not self.place.driven and key is not None and manifest(self._folder).get("key") == key

    def _succeed(self, before: Term) -> Term:
        """Try to be the first host from here on."""
        latest = succeed(self._meeting.store, before, self._meeting.me)
        if latest.by == self._meeting.me:
            generation = self._member.generation
            self._meeting.decide(latest, 1 if generation is None else len(generation.hosts) - 1)
        return latest

    def fence(self) -> None:
        """Before the first host writes what another one would write in its place: return once it is its own to write.

        Raises:
            Fenced: it is another host's by now, or may be.
        """
        if self._meeting.is_open and not self._is_settled:
            self._member.wait_until_safe()

    # -- generations ---------------------------------------------------------------------------------------

    @property
    def is_called(self) -> bool:
        """See `Companions`."""
        return self._generation is None or self._member.called > self._generation.number

    def trouble(self) -> Failure | None:
        """See `Companions`."""
        if (failure := self._member.failure) is not None:
            return failure
        if self._data_server is not None and (failure := self._data_server.trouble()) is not None:
            return failure
        keeper = self._generation.hosts[0]["name"] if self._generation and not self.place.driven else None
        return why_left_out(self._member, self.place, self._settings.host_timeout, keeper, self._folder)

    def join(
        self, described: Described, state: HostState, own: Own, interrupted: Callable[[], bool]
    ) -> Joined | Failure | None:
        """See `Companions`."""
        while True:
            generation = self._gather(self._report(described, state, own), interrupted)
            self.part()
            if not isinstance(generation, Generation):
                return generation
            if generation.own == 0 and not self.place.driven and self._member.term.by != self._meeting.me:
                return Failure("the first host has lost itself. Resume the run from its checkpoint.")
            if (misfit := generation.misfit(described.layout.shape.most, self._settings.data_host)) is not None:
                return misfit
            hosts, place = generation.hosts, generation.own or 0
            state.plans.withdraw()
            HostShares(state).begin(place, [host["workers"] for host in hosts])
            if len(hosts) == 1 or self._linked(generation, described, state, interrupted):
                self._has_state = True
                self._departures.joined(hosts, place)
                source = hosts[generation.source]
                rounds, found = source["rounds"], source["latest"]
                missed = found and found[0] == rounds and own.rounds == rounds - 1
                return Joined(rounds, place, source["memory"], found[1] if missed else None)

    def _report(self, described: Described, state: HostState, own: Own) -> dict[str, Any]:
        self._account = self._account or {**self._account_of(described), "data host": self._settings.data_host}
        return {
            "name": self.place.name,
            "workers": own.workers,
            "rounds": own.rounds if self._has_state else -1,
            "digest": state_digest(state, described.program.position(own.rounds)[0]) if self._has_state else "",
            "account": account_digest(self._account),
            "serves_data": self._serves_data,
            "latest": own.latest,
            "memory": own.memory,
        }

    def _gather(self, report: Mapping[str, Any], interrupted: Callable[[], bool]) -> Generation | Failure | None:
        """Report, and wait for the next generation."""
        member, reported, said = self._member, (0, 0), time.monotonic()
        while True:
            if (trouble := self.trouble()) is not None:
                return trouble
            found, called = member.generation, member.called
            if found is not None and found.number == called == reported:
                self._generation = found
                self._departures.left(member.departed, len(found.hosts))
                return found
            if called > reported and called[1]:
                member.report(called, report, self._account)
                reported = called
            if interrupted():
                return None
            waiting = member.waiting
            if time.monotonic() - said > SAY_SECONDS and waiting is not None and waiting["generation"] == reported[1]:
                said = time.monotonic()
                self._departures.say(waiting_text(waiting))
            time.sleep(LOOK_SECONDS)

    # -- who is told to go ---------------------------------------------------------------------------------

    @property
    def may_leave(self) -> bool:
        """See `Companions`."""
        alone = self._generation is not None and len(self._generation.hosts) == 1
        first = self.place.host == 0 if self._generation is None else self._generation.own == 0
        return not ((first and not self.place.driven) or alone or self._serves_data)

    def announce(self, shutdown: Shutdown) -> None:
        """See `Companions`."""
        if shutdown.leaves:
            self._departures.leaving(self.place.name, shutdown)
            return
        self._member.end(self.place.name, shutdown)
        self._say_end(self.place.name, shutdown)

    def ending(self) -> Shutdown | None:
        """See `Companions`."""
        if self._member.ends is None:
            return None
        self._say_end(*self._member.ends)
        return self._member.ends[1]

    def see_off(self, shutdowns: Sequence[Shutdown | None]) -> None:
        """See `Companions`; who has been killed as it left is not waited for either."""
        assert self._generation is not None
        leave = leavers(shutdowns)
        for place, (host, shutdown) in enumerate(zip(self._generation.hosts, shutdowns, strict=True)):
            if shutdown is not None and not leave:
                self._say_end(host["name"], shutdown)
            elif shutdown is not None and place in leave:
                self._member.gone(host["number"], shutdown)

    def _say_end(self, name: str, shutdown: Shutdown) -> None:
        self._departures.ending(name, shutdown, self._generation.hosts if self._generation else ())

    # -- the link ------------------------------------------------------------------------------------------

    def _linked(
        self, generation: Generation, described: Described, state: HostState, interrupted: Callable[[], bool]
    ) -> bool:
        """Start the process that speaks to the others, and let it make all states equal; whether it has."""
        self._link = link = LinkClient(
            Setup(self._meeting.run_store, self._settings.open_ports, generation, described.layout, described.program),
            state.segment,
        )

        def given_up() -> bool:
            return self.is_called or self.trouble() is not None or interrupted()

        for step in ("met", "ready"):
            if not link.wait(given_up):
                self.part()
                return False
            if self._heard(link) != step:
                return False
            if step == "met":
                self._has_state = self._has_state and generation.own not in generation.receivers
                link.go_on()
        self._selector.register(link.socket, selectors.EVENT_READ, self)
        return True

    def _heard(self, link: LinkClient) -> str:
        """What the link says; where it has lost a host, the others hear of it."""
        assert self._generation is not None
        word = link.word()
        if word.verb not in ("met", "ready", "done"):
            hosts = [self._generation.hosts[place] for place in word.hosts]
            names = " and ".join(f"host {host['name']}" for host in hosts) or "another host"
            lost = f"{names} cannot be reached{f' ({word.why})' if word.why else ''}"
            self._departures.say(f"{word.why if word.verb == 'early' else lost}; the hosts come together anew")
            numbers = [host["number"] for host in hosts]
            self._member.broken(self._generation.number, numbers, word.verb == "unreachable")
            if 0 in word.hosts and not self.place.driven:
                self._member.suspect()
        return word.verb

    def hear(self) -> None:
        """See `Companions`."""
        assert self._link is not None
        self._selector.unregister(self._link.socket)
        self._heard(self._link)

    def part(self) -> None:
        """See `Companions`."""
        if self._link is not None:
            if self._link.socket in self._selector.get_map():
                self._selector.unregister(self._link.socket)
            self._link.close()
            self._link = None

    def close(self, failure: Failure | None, shutdown: Shutdown | None) -> None:
        """See `Companions`; the first host stays until all others have left."""
        self.part()
        member, coordinator, timeout = self._member, self._meeting.coordinator, self._settings.host_timeout
        if failure is None and shutdown is not None and shutdown.leaves:
            member.gone(member.number, shutdown)
        alone = member.is_left_out or member.is_cut_off() is not None  # then the run is not its to end
        if failure is not None and member.failure is None and not alone:
            member.fail(self.place.name, failure)
        member.leave()
        if coordinator is not None:
            self._is_settled = coordinator.close(timeout, self.place.hosts if failure is not None else 0)
        elif self.place.driven:
            self._is_settled = not alone
        if self._data_server is not None:
            if failure is None:
                with suppress(RuntimeError, JobError, Malformed):  # nobody serves the store any more
                    self._wait_for_readers()
            self._data_server.close()

    def _wait_for_readers(self) -> None:
        """Return once all others have finished: they may evaluate still. No longer than a silent host is borne."""
        hosts = self._generation.hosts if self._generation else ()
        store = self._meeting.whole_store.client().within(str(self._member.term.number))
        until(lambda: all(store.find(f"{host['number']}/left") for host in hosts), self._settings.host_timeout)
