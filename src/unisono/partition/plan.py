"""Which slot computes which microbatches in a round: a value that is stamped into shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Plan:
    """The plan of one round.

    Attributes:
        round: which round.
        boundaries: slot k computes microbatches boundaries[k] … boundaries[k+1]−1.
        stop: the run ends instead of doing this round.
    """

    round: int
    boundaries: tuple[int, ...]
    stop: bool = False

    def __post_init__(self) -> None:
        if len(self.boundaries) < 2 or self.boundaries[0] != 0 or any(a > b for a, b in pairwise(self.boundaries)):
            raise ValueError(f"boundaries must rise from 0; received {self.boundaries}")

    @staticmethod
    def even(round: int, microbatches: int, slots: int) -> Plan:
        """About as many microbatches for every slot, the larger shares first.

        >>> Plan.even(0, 8, 3).boundaries
        (0, 3, 6, 8)
        """
        share, rest = divmod(microbatches, slots)
        return Plan(round, tuple(k * share + min(k, rest) for k in range(slots + 1)))

    def run(self, slot: int) -> range:
        """The microbatches of a slot."""
        return range(self.boundaries[slot], self.boundaries[slot + 1])

    def successor(self, stop: bool = False) -> Plan:
        """The same shares for the next round."""
        return Plan(self.round + 1, self.boundaries, stop)

    def to_words(self) -> list[int]:
        """As whole numbers, for shared memory."""
        return [self.round, int(self.stop), *self.boundaries]

    @staticmethod
    def from_words(words: Sequence[int]) -> Plan:
        """Read `to_words` back.

        >>> Plan.from_words(Plan.even(3, 8, 2).to_words()) == Plan.even(3, 8, 2)
        True
        """
        return Plan(words[0], tuple(words[2:]), bool(words[1]))
