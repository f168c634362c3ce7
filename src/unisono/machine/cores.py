"""Which cores to compute on: physical ones before their second threads, free ones before those of other runs."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def siblings(core: int, topology: Path = _TOPOLOGY) -> str:
    """The name of the physical core that a core is a thread of; where nobody knows, each is one.

    Args:
        core: its number.
        topology: where the kernel says it.
    """
    try:
        return (topology / f"cpu{core}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(core)


def physical_first(cores: Sequence[int], topology: Path = _TOPOLOGY) -> tuple[int, ...]:
    """The same cores, one of each physical one before the others.

    Args:
        cores: by number.
        topology: see `siblings`.
    """
    ranks: dict[str, int] = {}
    ranked = []
    for core in sorted(cores):
        name = siblings(core, topology)
        ranked.append((ranks.setdefault(name, 0), core))
        ranks[name] += 1
    return tuple(core for _, core in sorted(ranked))


def physical_count(cores: Sequence[int], topology: Path = _TOPOLOGY) -> int:
    """How many physical cores these are.

    Args:
        cores: by number.
        topology: see `siblings`.
    """
    return len({siblings(core, topology) for core in cores})


class Claims:
    """Cores that a run's workers are held to, each claimed by one run of this machine at a time.

    A claim is a socket of an abstract name: the kernel gives it back when its process ends, however that does. Who
    finds too few free cores is held to none, and the scheduler does what it can.

    Args:
        cores: those that may be used, best first.
        size: cores of a worker.

    >>> import os
    >>> cores = [1000 * os.getpid() + number for number in (3, 1, 2)]  # that no machine has, nor another test
    >>> one, other = Claims(cores, 2), Claims(cores, 1)
    >>> one.of(0) == tuple(cores[:2]), one.of(1), other.of(0) == (cores[2],), other.of(1)
    (True, None, True, None)
    >>> one.close()
    >>> other.of(1) == (cores[0],)
    True
    >>> other.close()
    """

    def __init__(self, cores: Sequence[int], size: int) -> None:
        self._cores, self._size = tuple(cores), size
        self._held: dict[int, tuple[int, ...]] = {}
        self._sockets: list[socket.socket] = []

    def of(self, place: int) -> tuple[int, ...] | None:
        """The cores of a worker's place, from its first worker to the end of the run; None = too few are free.

        Args:
            place: its number.
        """
        if place not in self._held:
            found = self._claimed()
            if found is None:
                return None
            self._held[place] = found
        return self._held[place]

    def _claimed(self) -> tuple[int, ...] | None:
        claims: dict[int, socket.socket] = {}
        mine = {core for cores in self._held.values() for core in cores}
        for core in self._cores:
            claim = None if core in mine or len(claims) == self._size else _claim(core)
            if claim is not None:
                claims[core] = claim
        if len(claims) < self._size:
            for claim in claims.values():
                claim.close()
            return None
        self._sockets += claims.values()
        return tuple(claims)

    def close(self) -> None:
        """Give them back."""
        for claim in self._sockets:
            claim.close()
        self._sockets.clear()
        self._held.clear()


def _claim(core: int) -> socket.socket | None:
    """None where another run has it, or nothing can be claimed here."""
    claim = None
    try:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        claim.bind(f"\0unisono-core-{core}")
    except OSError:
        if claim is not None:
            claim.close()
        return None
    return claim
