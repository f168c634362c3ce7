"""At which of a machine's addresses hosts find it: the choice is pure, what it is made from is asked of the system."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from unisono.errors import UsageError
from unisono.hosts.place import Place
from unisono.values.text import excerpt

ELSEWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses that no machine has (kept for documentation): a packet to them takes the default route."""


def is_loopback(address: str) -> bool:
    """Whether an address is its own machine's only.

    >>> is_loopback("127.0.1.1"), is_loopback("::1"), is_loopback("10.0.0.1"), is_loopback("node0")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def means_this_machine(place: Place) -> bool:
    """Whether the address where hosts meet says that all of them are on this machine.

    A machine's own name does not, though Debian and Ubuntu make it 127.0.1.1 in /etc/hosts; nor does "localhost" in a
    pod: Kubeflow tells the first pod so, and the others its name.
    """
    name = place.address.partition(".")[0].removeprefix("ip6-")
    return is_loopback(place.address) or (name == "localhost" and place.launcher != "Kubernetes")


@dataclass(frozen=True)
class Machine:
    """A machine's addresses.

    Attributes:
        interfaces: name → addresses, IPv4 before IPv6, without those that no other network knows (fe80::…).
        leaving: the one that packets to elsewhere have as their sender, or None where there is no such route.

    >>> Machine({"lo": ["127.0.0.1"], "eth0": ["10.0.0.1"]}).outward
    '10.0.0.1'
    """

    interfaces: Mapping[str, Sequence[str]]
    leaving: str | None = None

    @classmethod
    def here(cls) -> Machine:
        """This one, now."""
        found = {}
        for name, entries in psutil.net_if_addrs().items():
            own = [e.address for family in (socket.AF_INET, socket.AF_INET6) for e in entries if e.family == family]
            found[name] = [address.partition("%")[0] for address in own if not address.startswith("fe80")]
        for there in ELSEWHERE:
            with suppress(OSError):
                return cls(found, source_address(there))
        return cls(found)

    def of(self, interface: str) -> Sequence[str]:
        """An interface's addresses.

        Raises:
            UsageError: there is no such interface, or it has none.
        """
        if interface not in self.interfaces:
            names = ", ".join(sorted(self.interfaces))
            raise UsageError(f"--interface names one of {names}; received {excerpt(interface)}.")
        if not self.interfaces[interface]:
            raise UsageError(f"--interface needs an interface with an IP address; {interface!r} has none.")
        return self.interfaces[interface]

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(address for own in self.interfaces.values() for address in own)

    @property
    def outward(self) -> str:
        """Where others find this machine, if its name does not say.

        Raises:
            UsageError: it has no address but the loopback's, or several, and none by which packets leave it.
        """
        away = {name: [a for a in own if not is_loopback(a)] for name, own in self.interfaces.items()}
        away = {name: own for name, own in away.items() if own}
        if any(self.leaving in own for own in away.values()):
            assert self.leaving is not None
            return self.leaving
        if len(away) != 1:
            found = ", ".join(f"{name} ({own[0]})" for name, own in sorted(away.items())) or "none but the loopback"
            raise UsageError(
                "hosts find each other at an address that leads out of a machine; this one's name gives none, no "
                f"default route does, and its interfaces are {found}. Name one with --interface, or give host 0's IP "
                "address as MASTER_ADDR."
            )
        ((first, *_),) = away.values()
        return first


def listening(place: Place, named: Sequence[str], machine: Machine, interface: str | None) -> str:
    """The address at which host 0 serves the store: where the others look for it.

    Args:
        place: where hosts meet.
        named: what that address resolves to here.
        machine: this one, host 0's.
        interface: the interface that a person has named, or None.

    Raises:
        UsageError: it cannot be known.
    """
    if interface is not None:
        own = machine.of(interface)
        return next((address for address in named if address in own), own[0])
    away = [address for address in named if address in machine.addresses and not is_loopback(address)]
    if away:
        return away[0]
    if means_this_machine(place) and named:
        return named[0]
    return machine.outward


def dialled(place: Place, named: Sequence[str], machine: Machine, interface: str | None) -> list[str]:
    """The addresses at which a host looks for the store, in turn.

    Args:
        place, named, interface: see `listening`.
        machine: this one.

    Raises:
        UsageError: it is host 0's machine, and where that serves cannot be known.
    """
    if means_this_machine(place) or not all(map(is_loopback, named)):
        return [*named]
    return [listening(place, named, machine, interface), *named]  # this is host 0's machine


def own_address(found: str, machine: Machine, interface: str | None) -> str:
    """The address at which this host is found by the others.

    Args:
        found: where it has found the store.
        machine: this one.
        interface: see `listening`.
    """
    if interface is None:
        return source_address(found)
    own = machine.of(interface)
    return next((address for address in own if (":" in address) == (":" in found)), own[0])


def resolved(name: str) -> list[str]:
    """The addresses of a name, each once.

    Raises:
        OSError: it has none, now.
        UsageError: it is no name.
    """
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise UsageError(
            f"hosts meet at a host's name or an IP address; received {excerpt(name)}. Give host 0's as MASTER_ADDR."
        ) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def source_address(there: str) -> str:
    """This machine's address on the way to another one.

    Raises:
        OSError: there is no way.
    """
    with socket.socket(socket.AF_INET6 if ":" in there else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((there, 1))  # sends nothing: only asks which way it would go
        return str(probe.getsockname()[0])
