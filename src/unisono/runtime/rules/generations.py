"""Generations: which replicas train together, and from which round on; what the supervisor decides, as pure functions.

A worker that owns a device has a whole private replica there, and what it has folded dies with it, so nobody can go on
in the middle of its round. A *generation* fixes who takes part. Whoever dies, comes or is one too many ends it: those
that live abandon their round, leave the generation's process group and come *to rest*. Only the supervisor writes
generations, and only once every member of the last one is dead or at rest, so that nothing moves while it decides from
where to go on: from the furthest state there is, a replica's or the newest copy in the host's memory.

The host keeps two copies of the state. They alternate, and each is valid while its word is not 0, so that a whole one
remains whoever dies while he writes one. All that passes from one replica to others passes through them: a member that
is behind loads the copy of the generation's round, which its source has left there. Nobody's state is torn by a death
of the other, and a run whose workers are all dead goes on as its newcomers begin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unisono.runtime.rules.plan import even


class ReplicaWords(NamedTuple):
    """The words of one member, written by it alone. No process ever gets another one's.

    Attributes:
        held: rounds done in the state of its replica, plus one; 0 = it has no state.
        headed: `stamp` of the last round whose rows of the table are whole, here.
        unsound: `stamp` of a round of whose rows, here, one is not finite.
        rested: the last generation whose group it has left.
    """

    held: int = 0
    headed: int = 0
    unsound: int = 0
    rested: int = 0


def stamp(generation: int, round: int) -> int:
    """A round as one generation does it; later generations' are greater, whatever their rounds.

    >>> stamp(2, 3) < stamp(3, 0)
    True
    """
    return generation << 40 | round + 1


@dataclass(frozen=True)
class Generation:
    """Who trains together from when on.

    Attributes:
        number: counted from 1.
        members: by rank.
        boundaries: rank k computes microbatches boundaries[k] … boundaries[k+1]−1 of every round.
        source: the rank that leaves copies of its state in the host's memory.
        round: which round is done first.
        stops: no round is done: only a copy of the state is left.
    """

    number: int
    members: tuple[int, ...]
    boundaries: tuple[int, ...]
    source: int
    round: int
    stops: bool = False

    @property
    def group(self) -> str:
        """The name of its process group: no other generation's messages can be taken for its own."""
        return f"generation-{self.number}"

    def rank(self, member: int) -> int | None:
        """A member's rank; None = it takes no part."""
        return self.members.index(member) if member in self.members else None

    def run(self, rank: int) -> range:
        """The microbatches of a rank."""
        return range(self.boundaries[rank], self.boundaries[rank + 1])

    def to_words(self) -> list[int]:
        """As whole numbers, for shared memory; the first is its number (0 = being written)."""
        ranks = len(self.members)
        return [self.number, self.round, self.source, int(self.stops), ranks, *self.members, *self.boundaries]

    @staticmethod
    def from_words(words: Sequence[int]) -> Generation:
        """Read `to_words` back.

        >>> generation = Generation(2, (7, 9), (0, 4, 8), source=1, round=5)
        >>> Generation.from_words(generation.to_words()) == generation
        True
        """
        number, round_, source, stops, ranks, *rest = words
        members, boundaries = tuple(rest[:ranks]), tuple(rest[ranks : 2 * ranks + 1])
        return Generation(number, members, boundaries, source, round_, bool(stops))


@dataclass(frozen=True)
class End:
    """Members of this generation and of earlier ones come to rest."""

    number: int


def next_generation(
    now: Generation | None, ended: int, words: Mapping[int, ReplicaWords], seats: Sequence[int], newest: int,
    microbatches: int, drained: int, stop: bool,
) -> End | Generation | None:  # fmt: skip
    """What the supervisor does about generations.

    Args:
        now: the present one, if there has been one.
        ended: the number of the last one that was ended.
        words: of the members that can work and are not known to be dead.
        seats: who is to take part, as the recovery policy has it: maybe one that can't work yet, or one several times.
        newest: the word of the newest copy in the host's memory: rounds done in it, plus one.
        microbatches: of a round.
        drained: rounds whose records were read: a run stops at none of its earlier states.
        stop: whether no further round is to be done.

    Returns:
        What is to be done now; None = nothing, until something happens.
    """
    number = now.number if now else 0
    ranks = tuple(dict.fromkeys(member for member in seats if member in words))
    furthest = max(words, key=lambda member: words[member].held, default=None)
    if furthest is None or not ranks:
        return None
    held = max(words[furthest].held, newest)
    stops = stop and held > drained
    if now and ended < number:
        same = (ranks, stops) == (now.members, now.stops)
        return None if same or _leaves_a_copy(now, words, newest) else End(number)
    if now and any(member in words and words[member].rested < number for member in now.members):
        return None
    if not words[furthest].held and not set(seats) <= words.keys():
        return None  # nobody's work is kept waiting by those that are still coming
    if held > newest and not any(words[member].held == held for member in ranks):
        return Generation(number + 1, (furthest,), (0, microbatches), 0, held - 1, stops=True)
    source = next((rank for rank, member in enumerate(ranks) if words[member].held == held), 0)
    return Generation(number + 1, ranks, even(microbatches, len(ranks)), source, held - 1, stops)


def _leaves_a_copy(now: Generation, words: Mapping[int, ReplicaWords], newest: int) -> bool:
    """Whether the one that has the furthest state is about to leave it in the host's memory, before it goes."""
    return now.stops and newest <= now.round and now.members[now.source] in words


def is_over(now: Generation | None, newest: int, rounds: int, drained: int, stop: bool) -> bool:
    """Whether the run ends here: the state that it ends with is in the host's memory.

    Args:
        now: the present generation, if there has been one.
        newest: the word of the newest copy in the host's memory.
        rounds: of the run.
        drained: rounds whose records were read.
        stop: whether no further round is to be done.
    """
    return newest > rounds or bool(stop and now and now.stops and newest > max(now.round, drained))


def overdue(now: Generation, ended: int, words: Mapping[int, ReplicaWords]) -> list[int]:
    """The members that have not come to rest though their generation was ended: after a limit of time they are killed.

    Args:
        now: the present generation.
        ended: the number of the last one that was ended.
        words: of the members that are not known to be dead.
    """
    if ended < now.number:
        return []
    return [member for member in now.members if member in words and words[member].rested < now.number]


def recorded(now: Generation, words: Mapping[int, ReplicaWords]) -> tuple[int, int]:
    """Up to which round there are records, and the member that has left them, dead or alive.

    The supervisor reads them all before it writes another generation, so whoever is the furthest in one has done
    itself each round that was not read yet.

    Args:
        now: the present generation.
        words: of its members, also of the dead ones.
    """
    furthest = max(now.members, key=lambda member: words[member].held)
    return words[furthest].held - 1, furthest
