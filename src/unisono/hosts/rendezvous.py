"""How a host finds the store where all meet, or serves it: at an address where the others look, waiting if need be."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from unisono.errors import JobError
from unisono.hosts.addresses import Machine, dialled, is_loopback, listening, own_address, resolved
from unisono.hosts.place import Place
from unisono.hosts.store import START_SECONDS, AnotherRun, NoStore, Store, torch_distributed
from unisono.hosts.waiting import NotYet, retry

CONNECT_SECONDS = 5.0

FOREIGN = "Ping failed"
"""What torch's client says where something answers in another protocol."""


def find_store(
    place: Place, interface: str | None, timeout: float, say: Callable[[str], None], seconds: float = START_SECONDS
) -> tuple[Place, str, Store]:
    """Serve the store, where this host does, or find it.

    Args:
        place: where this host stands.
        interface: the network interface between hosts, or None.
        timeout: seconds that the store may take to answer.
        say: hears what is waited for, and what a person should know.
        seconds: how long to look for it.

    Returns:
        The place, with the IP address at which the store is in fact; this host's address; the store.

    Raises:
        UsageError: it cannot be known where to listen, or look.
        JobError: it was not found, or cannot be served.
    """
    torch_distributed()
    patient = partial(retry, say=say, seconds=seconds)
    where, way_out = f"{place.address}:{place.port}, as {place.launcher} says", "MASTER_ADDR is host 0's."
    if place.serves:
        address = patient(
            lambda: _listening(place, interface, say), f"host {place.name} serves the store at {where}", way_out=way_out
        )
        place = replace(place, address=address)
        return place, address, Store(place, address, True, timeout)
    look = _Look(place, interface, timeout)
    way_out = f"{way_out} See what host 0 says itself."
    place, store = patient(look, f"host {place.name} looks for the store of host 0 at {where}", way_out=way_out)
    return place, own_address(place.address, Machine.here(), interface), store


def _listening(place: Place, interface: str | None, say: Callable[[str], None]) -> str:
    named = [] if interface is not None else _resolved(place.address)
    found = listening(place, named, Machine.here(), interface)
    if named and found not in named:
        why = "its own machine's only" if all(map(is_loopback, named)) else "none of its machine's"
        say(
            f"host 0 listens at {found}:{place.port}: {place.address} is {named[0]} here, {why}. --interface names "
            "another network"
        )
    return found


def _resolved(name: str) -> list[str]:
    try:
        return resolved(name)
    except OSError as error:
        raise NotYet(f"the name {name!r} has no address ({error.strerror or error})") from error


@dataclass
class _Look:
    """Looks once at each address where the store may be; called again until it is there."""

    place: Place
    interface: str | None
    timeout: float
    since: float | None = None
    """When another run's store was first seen there: one that ends may be there for a while."""

    def __call__(self) -> tuple[Place, Store]:
        place, why = self.place, ""
        for address in dialled(place, _resolved(place.address), Machine.here(), self.interface):
            try:
                with socket.create_connection((address, place.port), timeout=CONNECT_SECONDS):
                    pass  # torch's client would write each try on the screen
            except OSError as error:
                why = f"{address} takes no connection ({error.strerror or error})"
                continue
            try:
                return self._client(replace(place, address=address))
            except NoStore as error:
                if FOREIGN in error.message:
                    raise JobError(
                        f"what answers at {address}:{place.port} is not the store of host 0, but another program. "
                        "See what host 0 says, and give the launcher another port (MASTER_PORT)."
                    ) from error
                why = f"{address} takes connections, and no store answers"
            except AnotherRun as error:
                self.since = self.since or time.monotonic()
                if time.monotonic() - self.since > self.timeout:
                    raise
                why = error.message
        raise NotYet(why)

    def _client(self, there: Place) -> tuple[Place, Store]:
        make = partial(Store, there, there.address, False, self.timeout, self.timeout)
        try:
            # torch's client waits for ever for what takes its connection and says nothing.
            return there, retry(make, "", lambda text: None, 2 * self.timeout, "")
        except (NoStore, AnotherRun):
            raise
        except JobError as error:
            raise NoStore(error.message) from error
