"""A store on a machine that is named for it: the hosts of a run meet there, and it outlives each of them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace

from unisono.errors import UsageError
from unisono.hosts.launchers import PORTS
from unisono.hosts.place import Place
from unisono.hosts.rendezvous import find_store
from unisono.values.bounds import number_in
from unisono.values.text import excerpt

SECONDS = 10.0


def parsed(where: str) -> tuple[str, int]:
    """The host and the port of HOST:PORT.

    >>> parsed("login1:29400"), parsed("[fd00::1]:29400")
    (('login1', 29400), ('fd00::1', 29400))
    >>> parsed("login1")
    Traceback (most recent call last):
    unisono.errors.UsageError: a store is named as HOST:PORT, login1:29400; received 'login1'.
    """
    host, _, text = where.rpartition(":")
    port = number_in(text)
    if not host or port is None or port not in PORTS:
        raise UsageError(f"a store is named as HOST:PORT, login1:29400; received {excerpt(where)}.")
    return host.strip("[]"), port


def meeting_at(where: str, place: Place) -> Place:
    """The place of a host that meets the others at a store, whatever its launcher says.

    Args:
        where: HOST:PORT.
        place: as the launcher says.
    """
    host, port = parsed(where)
    return replace(place, address=host, port=port, serves=False, launcher="--store")


def serve(where: str, interface: str | None, say: Callable[[str], None]) -> None:
    """Serve a store, until a signal ends this process.

    Args:
        where: HOST:PORT, as hosts are told.
        interface: the network interface to listen on, or None.
        say: hears where it is.

    Raises:
        UsageError, JobError: it cannot be served there.
    """
    host, port = parsed(where)
    place = Place(0, 1, host, port, True, "unisono", "the command", host)
    _, address, store = find_store(place, interface, SECONDS, say)
    say(f"hosts meet at {address}:{port}: unisono train … --store {where}")
    while store:
        signal.pause()
