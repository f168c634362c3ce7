"""Which hosts belong to a run: decided in one place, from what each of them says; pure, without clock or network.

A *generation* is a set of hosts that exchange with each other. When one of its hosts is lost, or a new one has come,
all are called together; those that answer are the next generation. Only the process beside the store decides, so
hosts that cannot reach it can never go on by themselves: two parts of a partitioned network are never both alive.

Hosts may reach it, but not each other: where a connection has broken, all are called together, and try new ones; of two
hosts for whom these fail too, one is left out. It is the one for which the most others are unreachable, of equal
ones the last in order, and never the first of all hosts, which keeps the run folder.

A host that is told to go has come to rest when the others hear of it (or is dead): nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GRACE_SECONDS = 2.0
"""How long a host whose connections have broken may take to answer a call, or for its heart to beat at least, and those
that cannot reach others to say so after the first one: a living one answers at once, and all of them have begun to try
at the same time."""

SAID_AFTER_SECONDS = 5.0
"""Hosts that have been called together for so long are told for whom they wait."""


@dataclass
class Seen:
    """What is known of one host.

    Attributes:
        order: its place among the hosts, as the launcher numbers them.
        heard: when it was last heard of (monotonic seconds).
        address: where it can be reached.
        answered: the latest call that it has heard.
        report: generation → what it said of itself when it was at rest.
        suspected: generations in which another host could not reach it any more.
        broken: generations in which it could not reach another host any more.
        unreachable: generation → the hosts whom it could not reach by new connections.
        left: whether it has finished.
        gone: whether it leaves while the others go on.
        name: how people know it.
        host: the launcher's number for it.
        beat: of its heart, when it was last heard.
    """

    order: int
    heard: float
    address: str = ""
    answered: int = 0
    report: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    suspected: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)
    unreachable: dict[int, Sequence[int]] = field(default_factory=dict)
    left: bool = False
    gone: bool = False
    name: str = ""
    host: int = 0
    beat: int = 0


@dataclass(frozen=True)
class Call:
    """All hosts come to rest and report."""

    generation: int


@dataclass(frozen=True)
class Gathered:
    """The hosts of a generation, in order, by their numbers in the store.

    Attributes:
        generation: which.
        hosts: who belongs to it.
        unreachable: who is left out → the hosts whom it cannot reach.
    """

    generation: int
    hosts: tuple[int, ...]
    unreachable: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """A host that has come has no place: it is where one has been left out, which could not reach others."""

    host: int
    unreachable: tuple[int, ...]


@dataclass(frozen=True)
class Waiting:
    """Hosts have been called together, and not all are there.

    Attributes:
        there: who is at rest, in order.
        coming: who has come and is not ready yet.
        wanted: how many hosts there are to be.
    """

    there: tuple[int, ...]
    coming: tuple[int, ...]
    wanted: int


@dataclass
class Membership:
    """The policy.

    Args:
        expected: hosts that a run begins with.
        timeout: seconds after which a host that is not heard of is lost.
        least: with fewer hosts the others wait; None = a run begins with all, and goes on with any.
        goes_on: whether another process has decided so far, and is lost: then who is late is not awaited.

    >>> membership = Membership(1, 10.0)
    >>> host = Seen(order=0, heard=0.0)
    >>> membership.look(0.0, {5: host})
    Call(generation=1)
    >>> host.report[1] = {}
    >>> membership.look(0.1, {5: host})
    Gathered(generation=1, hosts=(5,), unreachable={})
    """

    expected: int
    timeout: float
    least: int | None = None
    goes_on: bool = False

    def __post_init__(self) -> None:
        self.generation = 0
        self.hosts: tuple[int, ...] = ()
        self._called_at: float | None = None
        self._known: set[int] = set()
        self._broken_at: float | None = None
        self._enough_at: float | None = None
        self._left_out: dict[str, tuple[int, ...]] = {}

    def look(self, now: float, seen: Mapping[int, Seen]) -> Call | Gathered | Refused | None:
        """What to do now, if anything.

        Args:
            now: monotonic seconds.
            seen: all hosts that ever came, by number.
        """
        for number, host in seen.items():
            # It would not reach the same hosts again, and stop them for nothing.
            if number not in self._known and host.address in self._left_out:
                self._known.add(number)
                return Refused(number, self._left_out[host.address])
        if self._called_at is None:
            if not self._is_due(now, seen):
                return None
            self._called_at = now
            return Call(self.generation + 1)
        return self._gathered(now, self._called_at, seen)

    def waiting(self, now: float, seen: Mapping[int, Seen]) -> Waiting | None:
        """For whom hosts wait that have been called together; None where they have not, or not for long."""
        if self._called_at is None or now - self._called_at < SAID_AFTER_SECONDS:
            return None
        found = in_order(self._wanted(now, self._called_at, seen), seen)
        there = tuple(number for number in found if self.generation + 1 in seen[number].report)
        coming = tuple(number for number in found if number not in there)
        return Waiting(there, coming, self._wanted_count(now, self._called_at, seen))

    def _is_lost(self, now: float, host: Seen) -> bool:
        return now - host.heard > self.timeout

    def _is_ending(self, seen: Mapping[int, Seen]) -> bool:
        """Whether the run is over for one of its hosts: who comes now comes too late, and nobody waits for more."""
        return any(seen[number].left and not seen[number].gone for number in self.hosts)

    def _is_due(self, now: float, seen: Mapping[int, Seen]) -> bool:
        if self.generation == 0:
            return True
        staying = [seen[number] for number in self.hosts if not seen[number].left]
        lost = any(self._is_lost(now, host) or self.generation in host.broken for host in staying)
        gone = any(seen[number].gone for number in self.hosts)
        new = any(
            number not in self._known and not host.gone and not self._is_lost(now, host)
            for number, host in seen.items()
        )
        if self._broken_at is None and any(self.generation in host.unreachable for host in staying):
            self._broken_at = now
        broken = self._broken_at is not None and now - self._broken_at > GRACE_SECONDS
        return lost or broken or gone or (new and not self._is_ending(seen))

    def _wanted(self, now: float, called_at: float, seen: Mapping[int, Seen]) -> list[int]:
        """Who is to belong to the next generation."""
        coming = self.generation + 1
        wanted = []
        for number, host in seen.items():
            old = number in self.hosts or number not in self._known
            silent = host.answered < coming and self.generation in host.suspected and host.heard <= called_at
            if old and not (host.left or host.gone or self._is_lost(now, host)):
                if silent and now - called_at > GRACE_SECONDS:
                    continue
                wanted.append(number)
        return wanted

    def _wanted_count(self, now: float, called_at: float, seen: Mapping[int, Seen]) -> int:
        """How many hosts there are to be."""
        least = 1 if self.least is None or self._is_ending(seen) else self.least
        if self.generation or (self.goes_on and now - called_at > GRACE_SECONDS):
            return least
        gone = sum(host.gone for host in seen.values())  # they will not come
        return max(least, self.expected - gone)

    def _are_enough(self, now: float, called_at: float, count: int, seen: Mapping[int, Seen]) -> bool:
        """Whether there are as many as are wanted; a run begins with fewer where the rest is too late."""
        if count >= self._wanted_count(now, called_at, seen):
            return True
        if self.generation or self.least is None or count < self.least:
            self._enough_at = None
            return False
        self._enough_at = now if self._enough_at is None else self._enough_at
        return now - self._enough_at > self.timeout

    def _gathered(self, now: float, called_at: float, seen: Mapping[int, Seen]) -> Gathered | None:
        coming = self.generation + 1
        wanted = self._wanted(now, called_at, seen)
        if not wanted or any(coming not in seen[number].report for number in wanted):
            return None
        out = self._unreachable(wanted, seen)
        if not self._are_enough(now, called_at, len(wanted) - len(out), seen):
            return None
        self._left_out |= {seen[number].address: others for number, others in out.items()}
        self.generation, self._called_at, self._broken_at = coming, None, None
        self.hosts = in_order([number for number in wanted if number not in out], seen)
        self._known |= set(seen)
        return Gathered(coming, self.hosts, out)

    def _unreachable(self, wanted: Sequence[int], seen: Mapping[int, Seen]) -> dict[int, tuple[int, ...]]:
        """Whom to leave out so that all others reach each other, with the hosts that each cannot reach."""
        cannot: dict[int, set[int]] = {number: set() for number in wanted}
        for number in wanted:
            for other in set(seen[number].unreachable.get(self.generation, ())) & set(wanted):
                cannot[number].add(other)
                cannot[other].add(number)
        found = {}
        while any(cannot.values()):
            _, *others = in_order(cannot, seen)
            worst = max(reversed(others), key=lambda number: len(cannot[number]))
            found[worst] = in_order(cannot.pop(worst), seen)
            for rest in cannot.values():
                rest.discard(worst)
        return found


def in_order(hosts: Iterable[int], seen: Mapping[int, Seen]) -> tuple[int, ...]:
    """Hosts by their places among all."""
    return tuple(sorted(hosts, key=lambda number: (seen[number].order, number)))
