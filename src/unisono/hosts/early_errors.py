"""An error of a host before it has come to the others is left in the store: they would wait for it in vain."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from unisono.errors import JobError, UnisonoError
from unisono.errors.failure import described_error
from unisono.hosts.coordinator import Coordinator
from unisono.hosts.place import Place
from unisono.hosts.rendezvous import find_store
from unisono.hosts.store import FAILURE, HELLO, Store
from unisono.hosts.terms import enter

LOOK_SECONDS = 0.02

TWIN_SECONDS = 1.0
"""In so long the heart of a host that lives has beaten."""


class Heard(JobError):
    """Another host cannot begin.

    Args:
        message, traceback: see `JobError`.
        usage: whether it was told to do what breaks a rule.
    """

    def __init__(self, message: str, traceback: str, usage: bool) -> None:
        super().__init__(message, traceback)
        self.exit_status = 2 if usage else 1


def hear(store: Store) -> None:
    """Look whether a host has said that it cannot begin.

    Args:
        store: a term's keys.

    Raises:
        Heard: it has.
    """
    if (found := store.find("failure", FAILURE)) is not None:
        store.count("heard", 1)
        raise Heard(f"host {found['host']}: {found['message']}", found["traceback"], found["usage"])


def tell(store: Store, name: str, error: UnisonoError, others: int, seconds: float) -> None:
    """Leave an error where the others hear it, and wait until they have; not where they go on without this host.

    Args:
        store: a term's keys.
        name: this host.
        error: why it cannot begin.
        others: how many hosts are to hear it.
        seconds: how long to wait for them.
    """
    if store.raw.check(["world/1"]):
        return
    store.tell("failure", {"host": name, **asdict(described_error(error))})
    deadline = time.monotonic() + seconds
    while store.count("heard") < others and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def check_alone(store: Store, place: Place) -> None:
    """Refuse a host whose number another one has that lives: it belongs to another run, or was told a wrong one.

    Args:
        store: a term's keys.
        place: where this host stands.

    Raises:
        JobError: it is such.
    """
    numbers = range(1, store.count("arrivals") + 1)
    said = {number: store.find(f"{number}/hello", HELLO) for number in numbers}
    twins = {number: hello["name"] for number, hello in said.items() if hello and hello["host"] == place.host}
    before = {number: store.find(f"{number}/beat", int) for number in twins}
    if twins:
        time.sleep(TWIN_SECONDS)
    for number, name in twins.items():
        if store.find(f"{number}/beat", int) != before[number]:
            raise JobError(
                f"every host has a number of its own; received {place.host}, and host {name}, which has it too, is "
                f"there. Have two been started with the same number (RANK)? Or does another run meet at "
                f"{place.address}:{place.port}? Give one of them another port (MASTER_PORT)."
            )


@contextmanager
def told(place: Place | None, interface: str | None, timeout: float, say: Callable[[str], None]) -> Iterator[None]:
    """Tell the others of an error in this block, unless they know of it.

    Args:
        place: where this host stands; None = it is the only one.
        interface, timeout, say: see `find_store`.
    """
    try:
        yield
    except UnisonoError as error:
        if place is not None and not error.is_known and not isinstance(error, Heard):
            with suppress(UnisonoError, RuntimeError):  # they cannot be told
                _tell_from_outside(place, interface, timeout, say, error)
        raise


def _tell_from_outside(
    place: Place, interface: str | None, timeout: float, say: Callable[[str], None], error: UnisonoError
) -> None:
    place, _, store = find_store(place, interface, timeout, say, timeout)
    me = uuid.uuid4().hex
    term = enter(store, me, place.host == 0, timeout, timeout)
    own = store.within(str(term.number))
    if term.by == me:
        coordinator = Coordinator(store, term, place.hosts, timeout)  # so that the term lives, and is found
        tell(own, place.name, error, place.hosts - 1, timeout)
        coordinator.close(0.0)
    else:
        tell(own, place.name, error, 0, 0.0)
