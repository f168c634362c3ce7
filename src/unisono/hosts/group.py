"""The way from a supervisor to the other hosts: it belongs to a generation of them, and has a link to each other."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from unisono.errors import JobError, UnisonoError, UsageError
from unisono.errors.failure import Failure
from unisono.hosts.coordinator import Coordinator
from unisono.hosts.data_server import DataHost
from unisono.hosts.differences import account_digest, difference
from unisono.hosts.early_errors import Heard, check_alone, hear, tell
from unisono.hosts.heartbeat import Generation, Member
from unisono.hosts.link_setup import Setup
from unisono.hosts.place import Place
from unisono.hosts.ports import check_drawable
from unisono.hosts.rendezvous import find_store
from unisono.hosts.snapshot import state_digest
from unisono.hosts.store import BEGINNING, START_SECONDS, Store
from unisono.hosts.terms import Term, enter, succeed
from unisono.hosts.waiting import insist
from unisono.runtime.preparation.prepare import Described
from unisono.runtime.processes.channel import Channel, started
from unisono.runtime.processes.source import Source
from unisono.runtime.processes.start import POOLS
from unisono.runtime.rules.shutdown import Shutdown, leavers
from unisono.runtime.state.host_shares import Agreement
from unisono.runtime.state.host_state import HostState
from unisono.runtime.supervisor.answers import readable
from unisono.runtime.supervisor.other_hosts import Joined, Own
from unisono.runtime.supervisor.watcher import Listener
from unisono.values.text import printable
from unisono.values.untrusted import Malformed

TIMEOUT_SECONDS = 10.0
SAY_SECONDS = 10.0
"""As often it is said for whom hosts wait."""

LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Hosts:
    """How this process takes part in a run over several hosts.

    Attributes:
        place: where it stands among them.
        interface: the network interface between hosts; None = the one that leads to where they meet.
        timeout: seconds after which a silent host is lost.
        data_host: the number of the host that reads the data for all; None = each reads its own.
        ports: those on which hosts may listen; None = any.
        min_hosts: with fewer hosts the others wait; None = a run begins with all, and goes on with any.
    """

    place: Place
    interface: str | None = None
    timeout: float = TIMEOUT_SECONDS
    data_host: int | None = None
    ports: range | None = None
    min_hosts: int | None = None

    def __post_init__(self) -> None:
        if self.data_host is not None and not 0 <= self.data_host < self.place.hosts:
            raise UsageError(
                f"data_host is the number of one of the hosts, 0 to {self.place.hosts - 1}; received {self.data_host}."
            )

    @property
    def lends(self) -> bool:
        """Whether this host reads the data for the others."""
        return self.data_host == self.place.host


def waiting_text(waiting: Mapping[str, Any]) -> str:
    """For whom hosts wait.

    >>> waiting_text({"there": ["a-0"], "coming": ["b-1"], "missing": [2], "wanted": 3})
    'waiting for hosts (3 wanted): a-0 is there, b-1 is getting ready, not yet there: 2'
    >>> waiting_text({"there": ["a-0", "b-1"], "coming": [], "missing": [], "wanted": 3})
    'waiting for hosts (3 wanted): a-0 and b-1 are there'
    """
    parts = [
        f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} {what}"
        for names, what in ((waiting["there"], "there"), (waiting["coming"], "getting ready")) if names
    ]  # fmt: skip
    missing = [str(order) for order in waiting["missing"]]
    if missing:
        parts.append(f"not yet there: {' and '.join(missing)}")
    return f"waiting for hosts ({waiting['wanted']} wanted): {', '.join(parts)}"


def differing(generation: Generation) -> str | None:
    """Why the hosts of a generation cannot train together, or None.

    >>> one, two = ({"name": name, "rounds": 3, "digest": name} for name in "ab")
    >>> differing(Generation((1, 1), (one, two), 0)).partition(";")[0]
    'hosts that have done the same steps have the same state'
    """
    first, *others = generation.hosts
    for place, other in enumerate(others, 1):
        names = (str(first["name"]), str(other["name"]))
        found = difference(generation.accounts[0], generation.accounts[place], names) if generation.accounts else None
        if found is not None:
            return found
        if first["rounds"] == other["rounds"] > 0 and first["digest"] != other["digest"]:
            return (
                f"hosts that have done the same steps have the same state; after {first['rounds']} rounds host "
                f"{names[1]!r} has another one than host {names[0]!r}, so they computed something else. Resume the run "
                "from its checkpoint, without one of them."
            )
    return None


class Cluster:
    """This host among the others; see `Companions`.

    Args:
        hosts: how it takes part.
        about: this host's account (see `differences`), from the prepared job.
        source: where it comes from, where this host reads the data for the others.
    """

    def __init__(self, hosts: Hosts, about: Callable[[Described], Mapping[str, Any]], source: Source | None) -> None:
        self.place, self._hosts, self._about, self._source = hosts.place, hosts, about, source
        self._data_host: DataHost | None = None
        self._coordinator: Coordinator | None = None
        self._generation: Generation | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._account: dict[str, Any] = {}
        self._whole = True
        """Whether this host's state is that after some round: not while another one's comes in."""
        self._me = uuid.uuid4().hex
        self.sees: Callable[[str], bool] = lambda key: False
        """Whether this host sees the run folder: one in whose run.json this key stands."""
        self.how_to_go_on: Callable[[], str] = lambda: "Resume the run from its checkpoint."
        self._has_met = self._is_open = self._is_settled = self._has_joined = False
        self._term: Term
        self._mentioned: set[str] = set()
        """Who was told to go, as far as that has been said here."""

    def meet(self, say: Callable[[str], None]) -> bool:
        """Find the store, and in it the term to which this process comes.

        Args:
            say: hears what is waited for.

        Returns:
            Whether a run has begun before in this store.
        """
        timeout = self._hosts.timeout
        place, self.address, self._store = find_store(self.place, self._hosts.interface, timeout, say)
        self._where = place
        if self._hosts.ports is not None:
            check_drawable(self._hosts.ports, self.address)
        opens = place.host == 0 and not place.driven
        term = self._term = insist(
            lambda: enter(self._store, self._me, opens, timeout),
            f"host {place.name} waits for host 0 to begin", say, 2 * START_SECONDS, "See what host 0 says itself.",
        )  # fmt: skip
        self.place = replace(place, prefix=f"{place.prefix}/{term.origin}")
        if term.by == self._me:  # a driver decides itself
            self._of_run.put("key", self._me)
            self._coordinator = Coordinator(self._store, term, place.hosts, timeout, self._hosts.min_hosts)
        check_alone(self._of_term, place)
        self._has_met = True
        hear(self._of_term)
        return self._store.count("begun") > 0

    @contextmanager
    def telling(self) -> Iterator[None]:
        """In this block the others hear of an error, whether they have met this host or not."""
        try:
            yield
        except UnisonoError as error:
            error.is_known = True
            if self._has_met and not self._is_open and not isinstance(error, Heard):
                others = self.place.hosts - 1 if self.is_first else 0
                with suppress(RuntimeError):  # the store is gone
                    tell(self._of_term, self.place.name, error, others, self._hosts.timeout)
            raise

    @property
    def _of_term(self) -> Store:
        return self._store.within(str(self._term.number))

    @property
    def is_first(self) -> bool:
        """Whether this process begins the run, or begins it anew; else it follows, as long as another one is there."""
        return self.place.host == 0 if self.place.driven else self._term.by == self._me

    @property
    def _of_run(self) -> Store:
        """What stays the same as long as the run goes on, whoever decides."""
        return self._store.within(str(self._term.origin))

    def key(self) -> str | None:
        """What is in run.json of the run's folder: a host that reads it there can keep that folder."""
        found: str | None = self._of_run.find("key", str)
        return found

    def begins(self, run: Mapping[str, str]) -> None:
        """Say to the other hosts which run it is, in which folder: host 0 decides that for all."""
        self._of_run.put("beginning", run)
        self._store.count("begun", 1)

    def beginning(self) -> Mapping[str, str]:
        """What host 0 says in `begins`.

        Raises:
            JobError: it does not.
        """
        store, deadline = self._of_run, time.monotonic() + START_SECONDS
        try:
            while (found := store.find("beginning", BEGINNING)) is None:
                hear(self._of_term)
                if time.monotonic() > deadline:
                    raise JobError(f"host 0 says which run it is, and has not for {START_SECONDS:g} s. See its text.")
                time.sleep(LOOK_SECONDS)
        except Malformed as error:
            raise JobError(f"host 0 says which run it is; {error}.") from error
        except RuntimeError as error:  # who serves the store has ended
            raise JobError(f"host 0 has ended before the run began: see what it says ({error}).") from error
        return dict(found)

    def open(self, selector: selectors.BaseSelector, poke: Callable[[], None], listener: Listener) -> None:
        """See `Companions`."""
        self._selector, self._listener = selector, listener
        place, timeout = self.place, self._hosts.timeout
        begins = place.driven or self._term.number == self._term.origin
        order = place.host if begins else place.hosts + place.host  # after all who belong to it
        hello = {"host": place.host, "order": order, "name": place.name, "address": self.address}
        store = Store(self._where, self.address, False, timeout)
        self._member = Member(store, self._term, self._me, hello, timeout, poke, self._succeed, self._able)
        self._is_open = True
        if self._source is not None:
            self._data_host = DataHost(self._source, place, self.address, timeout)

    # -- the first host ------------------------------------------------------------------------------------

    def _able(self) -> bool:
        """Whether this host can be the first if that one is lost."""
        key = self.key()
        return not self.place.driven and key is not None and self.sees(key)

    def _succeed(self, before: Term) -> Term:
        """Try to be the first host from here on."""
        latest = succeed(self._store, before, self._me)
        if latest.by == self._me:
            generation = self._member.generation
            expected = 1 if generation is None else len(generation.hosts) - 1
            least = self._hosts.min_hosts
            self._coordinator = Coordinator(self._store, latest, expected, self._hosts.timeout, least)
        return latest

    def fence(self) -> None:
        """Before the first host writes what another one would write in its place: return once it is its own to write.

        Raises:
            Fenced: it is another host's by now, or may be.
        """
        if self._is_open and not self._is_settled:
            self._member.wait_until_safe()

    # -- generations ---------------------------------------------------------------------------------------

    @property
    def is_called(self) -> bool:
        """See `Companions`."""
        return self._generation is None or self._member.called > self._generation.number

    def trouble(self) -> Failure | None:
        """See `Companions`."""
        failure, generation = self._member.failure, self._member.generation
        if failure is not None:
            text = failure["message"] if failure["usage"] else f"host {failure['host']}: {failure['message']}"
            return Failure(text, failure["traceback"], failure["usage"])
        if self._data_host is not None and (reason := self._data_host.trouble()) is not None:
            return reason
        if self._member.deserted and self._generation and not self.place.driven:
            return Failure(
                f"host {self._generation.hosts[0]['name']}, which kept the run folder, is lost, and host "
                f"{self.place.name} cannot go on in its place: it does not see that folder. {self.how_to_go_on()}"
            )
        if (why := self._member.is_cut_off()) is not None:
            return Failure(
                f"hosts go on only where they reach {self.place.address}:{self.place.port}, where it is decided who "
                f"belongs to the run; host {self.place.name} has lost it ({why}). {self.how_to_go_on()}"
            )
        if self._member.refused is not None:
            return Failure(self._member.refused, usage=True)
        if self._member.torn is not None:
            others = " and ".join(f"host {name}" for name in self._member.torn)
            return Failure(
                f"every host must reach every other; host {self.place.name} and {others} do not reach each other, "
                f"though both reach {self.place.address}:{self.place.port}, and the run goes on "
                "without this host. Mend the network between them; to have this host again, stop the run and "
                "resume it on all."
            )
        if self._member.left_behind or (generation is not None and generation.own is None):
            return Failure(
                f"host {self.place.name} was not heard of for {self._hosts.timeout:g} s, and the others went on "
                "without it. A longer --host-timeout bears longer silences."
            )
        return None

    def join(
        self, described: Described, state: HostState, own: Own, interrupted: Callable[[], bool]
    ) -> Joined | Failure | None:
        """See `Companions`."""
        while True:
            generation = self._gather(self._report(described, state, own), interrupted)
            self.part()
            if not isinstance(generation, Generation):
                return generation
            if generation.own == 0 and not self.place.driven and self._member.term.by != self._me:
                return Failure("the first host has lost itself. Resume the run from its checkpoint.")
            if (problem := differing(generation)) is not None:
                raise UsageError(problem)
            hosts, most = generation.hosts, described.layout.shape.most
            if self._hosts.data_host is not None and not any(host["lends"] for host in hosts):
                return Failure(
                    f"the data lie on host {self._hosts.data_host}, as --data-host says, and it is lost. Resume the "
                    "run from its checkpoint."
                )
            if len(hosts) > most:
                raise UsageError(
                    f"every host needs a microbatch; a batch of this job has {most} non-empty ones, and there are "
                    f"{len(hosts)} hosts. Start fewer hosts, or set microbatches={len(hosts)} or more (another result)."
                )
            furthest = max(host["rounds"] for host in hosts)
            if furthest < 0:
                return Failure("no host has a whole state any more. Resume the run from its checkpoint.")
            state.plans.withdraw()
            Agreement(state).begin(generation.own or 0, [host["workers"] for host in hosts])
            source = next(place for place, host in enumerate(hosts) if host["rounds"] == furthest)
            standing = (furthest, hosts[source]["digest"])
            others = tuple(k for k, host in enumerate(hosts) if (host["rounds"], host["digest"]) != standing)
            if len(hosts) == 1 or self._linked(described, state, standing, source, others, interrupted):
                self._whole = True
                self._announce(hosts)
                found = hosts[source]["latest"]
                missed = found and found[0] == furthest and own.rounds == furthest - 1
                return Joined(furthest, generation.own or 0, hosts[source]["memory"], found[1] if missed else None)

    def _report(self, described: Described, state: HostState, own: Own) -> dict[str, Any]:
        self._account = self._account or {**self._about(described), "data host": self._hosts.data_host}
        return {
            "name": self.place.name,
            "workers": own.workers,
            "rounds": own.rounds if self._whole else -1,
            "digest": state_digest(state, described.program, own.rounds) if self._whole else "",
            "account": account_digest(self._account),
            "lends": self._hosts.lends,
            "latest": own.latest,
            "memory": own.memory,
        }

    def _gather(self, report: Mapping[str, Any], interrupted: Callable[[], bool]) -> Generation | Failure | None:
        """Report, and wait for the next generation."""
        reported, said = (0, 0), time.monotonic()
        while True:
            if (trouble := self.trouble()) is not None:
                return trouble
            found, called = self._member.generation, self._member.called
            if found is not None and found.number == called == reported:
                self._generation = found
                self._say_goodbyes(len(found.hosts))
                return found
            if called > reported and called[1]:
                self._member.report(called, report, self._account)
                reported = called
            if interrupted():
                return None
            waiting = self._member.waiting
            if time.monotonic() - said > SAY_SECONDS and waiting is not None and waiting["generation"] == reported[1]:
                said = time.monotonic()
                self._message(waiting_text(waiting))
            time.sleep(LOOK_SECONDS)

    # -- who is told to go ---------------------------------------------------------------------------------

    @property
    def may_leave(self) -> bool:
        """See `Companions`."""
        alone = self._generation is not None and len(self._generation.hosts) == 1
        first = self.place.host == 0 if self._generation is None else self._generation.own == 0
        return not ((first and not self.place.driven) or alone or self._hosts.lends)

    def announce(self, shutdown: Shutdown) -> None:
        """See `Companions`."""
        name = self.place.name
        if shutdown.leaves:
            self._tell_once(name, f"host {name} {shutdown}: it leaves after the step at hand; a second signal ends it")
            return
        self._member.end(name, shutdown)
        self._tell_once(name, self._end_text(name, shutdown))

    def ending(self) -> Shutdown | None:
        """See `Companions`."""
        if self._member.ends is None:
            return None
        name, shutdown = self._member.ends
        self._tell_once(name, self._end_text(name, shutdown))
        return shutdown

    def see_off(self, shutdowns: Sequence[Shutdown | None]) -> None:
        """See `Companions`; who has been killed as it left is not waited for either."""
        assert self._generation is not None
        hosts, leave = self._generation.hosts, leavers(shutdowns)
        for host, shutdown in zip(hosts, shutdowns, strict=True):
            if shutdown is not None and not leave:
                self._tell_once(host["name"], self._end_text(host["name"], shutdown))
        for place in leave:
            shutdown = shutdowns[place]
            assert shutdown is not None
            self._member.gone(hosts[place]["number"], shutdown)

    def _say_goodbyes(self, left: int) -> None:
        """Say who has left, where so many hosts go on."""
        for name, shutdown in self._member.goodbyes.items():
            go_on = f"{left} host{'s' if left > 1 else ''} go{'' if left > 1 else 'es'} on"
            self._tell_once(name, f"host {name} {shutdown}; {go_on}")

    def _end_text(self, name: str, shutdown: Shutdown) -> str:
        """That the run ends, and why it does not go on without this host."""
        hosts = self._generation.hosts if self._generation else ()
        has = {host["name"]: ", which has the data," for host in hosts if host["lends"]}
        if hosts and shutdown.reason == "signal":
            has.setdefault(hosts[0]["name"], ", which keeps the run folder,")
        return f"host {name}{has.get(name, '')} {shutdown}: the run ends after the step at hand, with a checkpoint"

    def _tell_once(self, name: str, text: str) -> None:
        if name not in self._mentioned:
            self._mentioned.add(name)
            self._message(text)

    def _message(self, text: str) -> None:
        """Say something that holds names from other hosts."""
        self._listener.message(printable(text))

    def _announce(self, hosts: tuple[Mapping[str, Any], ...]) -> None:
        self._mentioned -= {host["name"] for host in hosts}  # one may come again
        assert self._generation is not None
        count = f"{len(hosts)} host{'s' if len(hosts) > 1 else ''} with their workers"
        if self._generation.own == 0:
            each = ", ".join(f"{host['name']} ({host['workers']})" for host in hosts)
            self._message(f"{count}: {each}")
        elif not self._has_joined:
            self._message(f"one of {count}")
        self._has_joined = True

    # -- the link ------------------------------------------------------------------------------------------

    def _linked(
        self, described: Described, state: HostState, standing: tuple[int, str], source: int,
        receivers: tuple[int, ...], interrupted: Callable[[], bool],
    ) -> bool:  # fmt: skip
        """Start the process that speaks to the others, and let it make all states equal; whether it has."""
        assert self._generation is not None
        own, (rounds, digest) = self._generation.own or 0, standing
        setup = Setup(
            self.place, self.address, self._hosts.timeout, self._hosts.ports, self._generation.number, own,
            len(self._generation.hosts), described.layout, described.program, rounds, source, receivers, digest,
        )  # fmt: skip
        variables = {**os.environ, **dict.fromkeys(POOLS, "1")}
        self._process, self._channel = started("unisono.hosts.link", env=variables, process_group=0)
        self._channel.send(setup, [state.segment.file])
        if not self._hears("met", interrupted):
            return False
        self._whole = self._whole and own not in receivers
        with suppress(ConnectionError):  # it has died, as will be heard
            self._channel.send("go on")
        if not self._hears("ready", interrupted):
            return False
        self._selector.register(self._channel.socket, selectors.EVENT_READ, self)
        return True

    def _hears(self, what: str, interrupted: Callable[[], bool]) -> bool:
        """Wait for the link to say something; whether it has said that."""
        assert self._channel is not None
        while not readable(self._channel.socket.fileno(), LOOK_SECONDS):
            if self.is_called or self.trouble() is not None or interrupted():
                self.part()
                return False
        return self._said() == what

    def _said(self) -> str:
        """What the link says; where it has lost a host, the others hear of it."""
        assert self._channel is not None
        assert self._generation is not None
        try:
            (verb, places, why), _ = self._channel.receive()
        except (EOFError, ConnectionError):
            verb, places, why = "ended", (), ""
        if verb not in ("met", "ready", "done"):
            hosts = [self._generation.hosts[place] for place in places]
            names = " and ".join(f"host {host['name']}" for host in hosts) or "another host"
            lost = f"{names} cannot be reached{f' ({why})' if why else ''}"
            self._message(f"{why if verb == 'early' else lost}; the hosts come together anew")
            numbers = [host["number"] for host in hosts]
            self._member.broken(self._generation.number, numbers, verb == "torn")
            if 0 in places and not self.place.driven:
                self._member.suspect()
        return str(verb)

    def hear(self) -> None:
        """See `Companions`."""
        assert self._channel is not None
        self._selector.unregister(self._channel.socket)
        self._said()

    def part(self) -> None:
        """See `Companions`."""
        if self._process is None or self._channel is None:
            return
        if self._channel.socket in self._selector.get_map():
            self._selector.unregister(self._channel.socket)
        self._process.kill()
        self._process.wait()
        self._channel.close()
        self._process = self._channel = None

    def close(self, failure: Failure | None, shutdown: Shutdown | None) -> None:
        """See `Companions`; the first host stays until all others have left."""
        self.part()
        member, generation = self._member, self._member.generation
        if failure is None and shutdown is not None and shutdown.leaves:
            member.gone(member.number, shutdown)
        left_out = generation is not None and generation.own is None
        left_out = left_out or member.torn is not None or member.refused is not None
        # Where this host is alone the run is not its to end.
        alone = left_out or member.left_behind is not None or member.is_cut_off() is not None
        if failure is not None and member.failure is None and not alone:
            member.fail(self.place.name, failure)
        member.leave()
        if self._coordinator is not None:
            expected = self.place.hosts if failure is not None else 0
            self._is_settled = self._coordinator.close(self._hosts.timeout, expected)
        elif self.place.driven:
            self._is_settled = not alone
        if self._data_host is not None:
            if failure is None:
                self._wait_for_borrowers()
            self._data_host.close()

    def _wait_for_borrowers(self) -> None:
        """Return once all others have finished: they may evaluate still. No longer than a silent host is borne."""
        hosts = self._generation.hosts if self._generation else ()
        deadline = time.monotonic() + self._hosts.timeout
        with suppress(RuntimeError, JobError, Malformed):  # nobody serves the store any more
            store = Store(self._where, self.address, False, self._hosts.timeout)
            store = store.within(str(self._member.term.number))
            while time.monotonic() < deadline and not all(store.find(f"{host['number']}/left", bool) for host in hosts):
                time.sleep(LOOK_SECONDS)
