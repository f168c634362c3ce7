"""An error of a host before it has come to the others is left in the store: they would wait for it in vain."""

from __future__ import annotations

import time
from dataclasses import asdict

from unisono.errors import JobError, UnisonoError
from unisono.errors.failure import described_error
from unisono.hosts.place import Place
from unisono.hosts.store import Store
from unisono.hosts.waiting import until

TWIN_SECONDS = 1.0
"""In so long the heart of a host that lives has beaten."""


class FailedElsewhere(JobError):
    """Another host cannot begin.

    Args:
        message, traceback: see `JobError`.
        usage: whether it was told to do what breaks a rule.
    """

    is_known = True

    def __init__(self, message: str, traceback: str, usage: bool) -> None:
        super().__init__(message, traceback)
        self.exit_status = 2 if usage else 1


def raise_failure(store: Store) -> None:
    """Look whether a host has said that it cannot begin.

    Args:
        store: a term's keys.

    Raises:
        FailedElsewhere: it has.
    """
    if (found := store.find("failure")) is not None:
        store.count("heard", 1)
        raise FailedElsewhere(f"host {found['host']}: {found['message']}", found["traceback"], found["usage"])


def report_failure(store: Store, name: str, error: UnisonoError, others: int, seconds: float) -> None:
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
    store.announce("failure", {"host": name, **asdict(described_error(error))})
    until(lambda: store.count("heard") >= others, seconds)


def check_alone(store: Store, place: Place) -> None:
    """Refuse a host whose number another one has that lives: it belongs to another run, or was told a wrong one.

    Args:
        store: a term's keys.
        place: where this host stands.

    Raises:
        JobError: it is such.
    """
    numbers = range(1, store.count("arrivals") + 1)
    said = {number: store.find(f"{number}/hello") for number in numbers}
    twins = {number: hello["name"] for number, hello in said.items() if hello and hello["host"] == place.host}
    before = {number: store.find(f"{number}/beat") for number in twins}
    if twins:
        time.sleep(TWIN_SECONDS)
    for number, name in twins.items():
        if store.find(f"{number}/beat") != before[number]:
            raise JobError(
                f"every host has a number of its own; received {place.host}, and host {name}, which has it too, is "
                f"there. Have two been started with the same number (RANK)? Or does another run meet at "
                f"{place.address}:{place.port}? Give one of them another port (MASTER_PORT)."
            )
