"""The recovery policy: what the supervisor does when members join, die or hang, or another world is wanted.

A pure machine: events in, decisions out, no clock and no process. Only this decides who inherits a dead member's
slots, who is forked and who sits where; the supervisor carries the decisions out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unisono.runtime.rules.plan import owner

STRIKES = 3
"""Deaths by own fault at one piece of work (or before a member could work at all) that end the run."""


@dataclass(frozen=True)
class Work:
    """A piece of work that can be at fault: a microbatch of a round."""

    round: int
    microbatch: int
    """−1: not a microbatch but the rest of the round (the update)."""
    sample: int = -1
    """The one that was being read; −1: none, or not known."""


@dataclass(frozen=True)
class Fork:
    """Start a process for this new member."""

    member: int


@dataclass(frozen=True)
class Inherit:
    """What the dead member owns is its heir's."""

    dead: int
    heir: int


@dataclass(frozen=True)
class Seat:
    """From the next plan on slot k is owned by members[k]."""

    members: tuple[int, ...]


Decision = Fork | Inherit | Seat


@dataclass
class Crew:
    """Who works, who is coming, who sits where.

    Args:
        wanted: slots wanted; at least 1.
        seats: who owns which slot.
        present, coming: those at work; those that are forked.
        retiring: those of them that end once no plan gives them a slot.
        heirs: of the dead.
        strikes: how often each piece of work was to blame.
        next_member: the next one's number.

    >>> crew = Crew(2)
    >>> crew.begin()
    [Fork(member=0), Fork(member=1), Seat(members=(0, 1))]
    >>> crew.joined(0), crew.joined(1)
    ([], [])
    >>> crew.died(1)
    [Fork(member=2), Inherit(dead=1, heir=0), Seat(members=(0, 0))]
    >>> crew.joined(2)
    [Seat(members=(0, 2))]
    """

    wanted: int
    seats: tuple[int, ...] = ()
    present: set[int] = field(default_factory=set)
    coming: set[int] = field(default_factory=set)
    retiring: set[int] = field(default_factory=set)
    heirs: dict[int, int] = field(default_factory=dict)
    strikes: dict[Work | None, int] = field(default_factory=dict)
    next_member: int = 0

    def begin(self) -> list[Decision]:
        """Everybody is forked and has a seat from the start."""
        decisions: list[Decision] = [*self._fork(self.wanted)]
        return [*decisions, *self._reseat(tuple(sorted(self.coming)))]

    def joined(self, member: int) -> list[Decision]:
        """A member can work now."""
        if member not in self.coming:
            return []
        self.coming.discard(member)
        self.present.add(member)
        self.strikes.pop(None, None)
        return self._settle()

    def died(self, member: int) -> list[Decision]:
        """A member is dead, for whatever reason: others go on at once."""
        self.left(member)
        decisions: list[Decision] = [*self._fork(self.wanted - len(self._staying))]
        heir = self._least_busy()
        self.heirs[member] = heir
        return [*decisions, Inherit(member, heir), *self._settle()]

    def blame(self, work: Work | None) -> bool:
        """A death was the dead member's own fault (SIGSEGV, exit, memory …), not a kill from outside.

        Args:
            work: what it was at; None = it could not work yet.

        Returns:
            Whether the same work has killed its worker too often.
        """
        if work is not None:
            self.strikes = {w: n for w, n in self.strikes.items() if w is None or w.round >= work.round}
        self.strikes[work] = self.strikes.get(work, 0) + 1
        return self.strikes[work] >= STRIKES

    def left(self, member: int) -> None:
        """A member has ended because the run has."""
        for group in (self.present, self.coming, self.retiring):
            group.discard(member)

    def newcomer(self) -> int:
        """A new member's number."""
        self.next_member += 1
        return self.next_member - 1

    def resize(self, wanted: int) -> list[Decision]:
        """Another number of slots is wanted; at least 1."""
        self.wanted = wanted
        decisions: list[Decision] = [*self._fork(wanted - len(self._staying))]
        return [*decisions, *self._settle()]

    # -- how it decides ------------------------------------------------------------------------------------

    def _fork(self, count: int) -> list[Fork]:
        forks = [Fork(self.newcomer()) for _ in range(count)]
        self.coming.update(fork.member for fork in forks)
        return forks

    @property
    def _staying(self) -> set[int]:
        return (self.present | self.coming) - self.retiring

    def _sitting(self) -> list[int]:
        return [owner(member, self.heirs.get) for member in self.seats]

    def _least_busy(self) -> int:
        """The present member with the fewest seats; a coming one if nobody is present."""
        sitting = [seat for seat in self._sitting() if seat in self.present]
        candidates = (self.present - self.retiring) or self.present or self.coming
        return min(candidates, key=lambda member: (sitting.count(member), member))

    def _settle(self) -> list[Decision]:
        """One seat for everybody present, as far as they go; whoever is one too many retires."""
        sitting = self._sitting()[: self.wanted]
        free = sorted(self.present - self.retiring - set(sitting))
        seats: list[int] = []
        for slot in range(self.wanted):
            if slot < len(sitting) and not (free and (sitting[slot] in seats or sitting[slot] in self.retiring)):
                seats.append(sitting[slot])
            elif free:
                seats.append(free.pop(0))
        surplus = len(self._staying) - self.wanted
        idle = sorted(self._staying - set(seats), reverse=True)
        self.retiring.update(idle[: max(surplus, 0)])
        return self._reseat(tuple(seats))

    def _reseat(self, seats: tuple[int, ...]) -> list[Decision]:
        if seats == self.seats:
            return []
        self.seats = seats
        return [Seat(seats)]
