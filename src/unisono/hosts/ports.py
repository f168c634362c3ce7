"""Ports between hosts out of a range that a person has given, where a firewall leaves others closed.

The port of gloo's listener is the kernel's choice: torch hands it a host's name only, and it binds to port 0. So the
kernel is asked again until it gives one of the range, which takes a range that it chooses from.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from unisono.errors import JobError, UsageError

T = TypeVar("T")

KERNELS = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""What the kernel chooses from, for IPv6 too."""

TRIES, LEAST_HITS = 2000, 5
"""A range is good where at least so many of so many tries fall into it: then gloo has its listeners within seconds."""

MOST_DRAWS = 20_000


def check_drawable(ports: range, address: str) -> None:
    """Refuse ports that the kernel does not choose, or hardly ever.

    Args:
        ports: that are allowed.
        address: this host's.

    Raises:
        UsageError: they are such.
    """
    hits = sum(_kernels_choice(address) in ports for _ in range(TRIES))
    if hits < LEAST_HITS:
        low, high = KERNELS.read_text().split()
        raise UsageError(
            f"the kernel chooses the ports of gloo's listeners; received ports {ports[0]}-{ports[-1]}, and of {TRIES} "
            f"ports that it gave here {hits} were among them: it chooses from {low}-{high}, from the lower half first. "
            f"Give ports from there, or have it choose from yours: sysctl -w net.ipv4.ip_local_port_range='{ports[0]} "
            f"{ports[-1]}' on every host."
        )


def _kernels_choice(address: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gloo's: it changes what is chosen
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def drawn(make: Callable[[], T], port_of: Callable[[T], int], ports: range) -> T:
    """Make something that listens, again and again until its port is an allowed one.

    Args:
        make: makes it anew.
        port_of: the port that it was given.
        ports: that are allowed.

    Raises:
        JobError: it was in vain.

    >>> numbers = iter([7, 8, 9])
    >>> drawn(lambda: next(numbers), lambda number: number, range(8, 11))
    8
    """
    for _ in range(MOST_DRAWS):
        found = make()
        if port_of(found) in ports:
            return found
    raise JobError(f"gloo was given none of the ports {ports[0]}-{ports[-1]}. Give more of them.")
