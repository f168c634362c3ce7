"""What workers are asked for, one act (a forward or a backward pass of a call) after the other, whoever dies meanwhile.

A pure machine: who has a work, who answers and who dies in; what is to be sent out. An act that was interrupted is
drained: its answers are known by its number, come before the next one's, and are nobody's any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Acts:
    """The works of the act under way.

    Attributes:
        number: of the act.
        works: each member's works that are not done, in the order in which it does them.
        asked: member → the act that it was asked about last, until it has answered.
        failed: the first work that has failed; None = none has.

    >>> acts = Acts()
    >>> acts.begin([7, 8])
    >>> acts.due([7, 8])
    [(7, 0), (8, 1)]
    >>> acts.died(8, heir=7)
    >>> acts.answered(7, 1), acts.due([7])
    (0, [(7, 1)])
    >>> acts.answered(7, 1), acts.is_over
    (1, True)
    """

    number: int = 0
    works: dict[int, list[int]] = field(default_factory=dict)
    asked: dict[int, int] = field(default_factory=dict)
    failed: int | None = None

    def begin(self, owners: Sequence[int]) -> None:
        """Another act begins.

        Args:
            owners: whose each work is.
        """
        self.number += 1
        self.failed = None
        self.works = {}
        for work, member in enumerate(owners):
            self.works.setdefault(member, []).append(work)

    @property
    def is_over(self) -> bool:
        """Whether nobody is at work, and nothing that is left could change how the act ends: of several failures the
        first work's is told."""
        return not any(map(self._next, self.works)) and self.number not in self.asked.values()

    def due(self, members: Iterable[int]) -> list[tuple[int, int]]:
        """Who is to be asked for which work now; it counts as asked."""
        free = [member for member in members if member not in self.asked]
        found = [(member, work) for member in free for work in self._next(member)]
        self.asked.update((member, self.number) for member, _ in found)
        return found

    def at(self, member: int) -> int | None:
        """The work of this act that a member was asked for; None = it was asked for none, or in an earlier act."""
        return self.works[member][0] if self.works and self.asked.get(member) == self.number else None

    def answered(self, member: int, act: int, failed: bool = False) -> int | None:
        """A member has answered.

        Args:
            member: it.
            act: which act it was asked about.
            failed: whether its work has failed.

        Returns:
            The work that is done; None: it was an earlier act's.
        """
        del self.asked[member]
        if act != self.number:
            return None
        work = self.works[member].pop(0)
        if failed and (self.failed is None or work < self.failed):
            self.failed = work
        return work

    def left(self, member: int) -> None:
        """A member has ended between two acts."""
        self.asked.pop(member, None)

    def died(self, member: int, heir: int) -> None:
        """A member is dead; what it has not done is its heir's, after what that is at."""
        self.left(member)
        under_way, own = int(self.at(heir) is not None), self.works.get(heir, [])
        self.works[heir] = own[:under_way] + sorted([*own[under_way:], *self.works.pop(member, [])])

    def end(self) -> None:
        """The act is over, or was interrupted."""
        self.works = {}

    def _next(self, member: int) -> list[int]:
        """A member's first work, unless one before it has failed."""
        return [work for work in self.works.get(member, [])[:1] if self.failed is None or work < self.failed]
