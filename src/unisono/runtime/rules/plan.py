"""The step protocol: plans, slot words and the successor rule, as pure functions of values.

Work belongs to slots, not to processes. A *member* is one process's life as a worker; its number is never used
again. A plan names the member that owns each slot when its round begins; where that member is dead, the slot is its
heir's. Only the supervisor names heirs, and only once the kernel says that the member is dead, so that a slot has
one owner at any time. Whoever owns a slot goes on from its words:

    summed      rounds whose partial sums are complete
    normed      rounds whose block norms are published (with clip_norm)
    progress    mark(round, 2k): the chunks before k are updated; mark(round, 2k + 1): scratch holds the old values of k
    committed   rounds that are complete for this slot

A stage's parameters are used by no earlier stage, so with a pipeline they are updated as soon as this stage and the
later ones have summed.

With several hosts each has slots, words and plans of its own; its update also waits until the sums over all hosts have
come (`exchanged`), which is what keeps hosts within one round of each other.

Round t is over when every slot of its plan has committed it: nobody decides it, everyone can see it. The exhaustive
model in tests/runtime/rules/test_plan.py runs these very functions through every order of events and deaths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple


@dataclass(frozen=True)
class Plan:
    """What one round asks of whom.

    Attributes:
        round: which round, counted from 0.
        boundaries: pipe k computes microbatches boundaries[k] … boundaries[k+1]−1.
        members: who owns each slot when the round begins.
        stages: slots of a pipe, one a stage of the model; slot k is stage k mod stages of pipe ⌊k / stages⌋. Slots that
            fill no pipe compute nothing, and update their slices as all do.
        copy: no slot updates before the supervisor has copied the state.
        stop: the run ends instead of doing this round.
        asked: how many copies on request have been planned so far.
        hosts: host h computes microbatches hosts[h] … hosts[h+1]−1, and its sums wait for the others'; () = this host
            computes all by itself.
    """

    round: int
    boundaries: tuple[int, ...]
    members: tuple[int, ...]
    stages: int = 1
    copy: bool = False
    stop: bool = False
    asked: int = 0
    hosts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.boundaries) < 2 or any(a > b for a, b in pairwise((0, *self.boundaries))):
            raise ValueError(f"boundaries must rise; received {self.boundaries}")
        if self.slots // self.stages != self.pipes:
            raise ValueError(
                f"{self.pipes} pipes of {self.stages} stages need as many members; received {self.members}"
            )

    @property
    def slots(self) -> int:
        """How many slots the round has."""
        return len(self.members)

    @property
    def pipes(self) -> int:
        """How many pipes share the microbatches."""
        return len(self.boundaries) - 1

    @property
    def own(self) -> range:
        """The microbatches of this host."""
        return range(self.boundaries[0], self.boundaries[-1])

    def share(self, pipe: int) -> range:
        """The microbatches of a pipe."""
        return range(self.boundaries[pipe], self.boundaries[pipe + 1])

    def run(self, slot: int) -> range:
        """The microbatches of a slot."""
        pipe = slot // self.stages
        return self.share(pipe) if pipe < self.pipes else range(0)

    def to_words(self) -> list[int]:
        """As whole numbers, for shared memory; the first is the round plus one (0 = being written)."""
        flags = int(self.copy) | int(self.stop) << 1
        return [
            self.round + 1, flags, self.asked, self.slots, self.pipes, self.stages, len(self.hosts), *self.boundaries,
            *self.members, *self.hosts,
        ]  # fmt: skip

    @staticmethod
    def from_words(words: Sequence[int]) -> Plan:
        """Read `to_words` back.

        >>> plan = Plan(3, (0, 4, 8), (7, 8), copy=True)
        >>> Plan.from_words(plan.to_words()) == plan
        True
        """
        number, flags, asked, slots, pipes, stages, shares, *rest = words
        boundaries, rest = tuple(rest[: pipes + 1]), rest[pipes + 1 :]
        members, hosts = tuple(rest[:slots]), tuple(rest[slots : slots + shares])
        return Plan(number - 1, boundaries, members, stages, bool(flags & 1), bool(flags & 2), asked, hosts)


def even(microbatches: int, slots: int) -> tuple[int, ...]:
    """Boundaries that give every slot about as many microbatches, the larger shares first.

    >>> even(8, 3)
    (0, 3, 6, 8)
    """
    share, rest = divmod(microbatches, slots)
    return tuple(k * share + min(k, rest) for k in range(slots + 1))


def mark(round: int, position: int) -> int:
    """The `progress` word of a position in a round."""
    return round << 32 | position


def position(progress: int, round: int) -> int:
    """Where an update stands in a round; a word of an earlier round means the beginning.

    >>> position(mark(5, 3), 5), position(mark(5, 3), 6)
    (3, 0)
    """
    return progress & 0xFFFFFFFF if progress >> 32 == round else 0


class SlotWords(NamedTuple):
    """The words of one slot."""

    summed: int = 0
    normed: int = 0
    progress: int = 0
    committed: int = 0


class Do(Enum):
    """What the owner of a slot does next."""

    COMPUTE = "compute its microbatches and leave partial sums"
    AWAIT_STAGE = "wait until a neighbouring stage has handed a microbatch over"
    AWAIT_SUMS = "wait until the slots have summed whose sums its next chunk is updated with"
    AWAIT_COPY = "wait until the supervisor has copied the state"
    AWAIT_HOSTS = "wait until the sums over all hosts are here"
    PUBLISH_NORMS = "publish the norms of its blocks"
    AWAIT_NORMS = "wait until every slot has published its norms"
    UPDATE = "copy a chunk's old values to scratch, mark, update it in place"
    RESTORE = "copy a chunk's old values back from scratch, then update it"
    COMMIT = "finish the round for this slot"
    DONE = "nothing: the slot has committed"


WAITS = frozenset({Do.AWAIT_SUMS, Do.AWAIT_COPY, Do.AWAIT_HOSTS, Do.AWAIT_NORMS, Do.DONE})


class Action(NamedTuple):
    """What to do, on which chunk, and up to which one."""

    do: Do
    chunk: int = 0
    stop: int = 0


@dataclass
class Look:
    """One look at a round: its plan, every slot's words, and what these say together, found out when it is first asked.

    Args:
        plan: the plan in force.
        words: every slot's words.
    """

    plan: Plan
    words: Sequence[SlotWords]

    @cached_property
    def stage(self) -> int:
        """The first stage from which on all slots have summed; 0 = all have."""
        target, stages = self.plan.round + 1, self.plan.stages
        behind = (slot % stages for slot in range(self.plan.slots) if self.words[slot].summed < target)
        return max(behind, default=-1) + 1

    @cached_property
    def normed(self) -> bool:
        """Whether every slot has published its norms."""
        return all(self.words[slot].normed > self.plan.round for slot in range(self.plan.slots))


def next_action(look: Look, slot: int, due: Sequence[int], clipped: bool, copied: int, exchanged: int) -> Action:
    """The successor rule: what the owner of a slot does next, whoever did the work so far.

    Args:
        look: at the round.
        slot: the slot.
        due: by stage, how many chunks of the slot's slice may be updated once all slots of this stage and of later ones
            have summed (nothing in an evaluation wave). The parameters of a stage are used by no earlier one, so
            these may still be computing. Where an update needs all sums, only the first stage's number is not 0.
        clipped: whether the update waits for every block's norm.
        copied: rounds whose copy, where the plan asks for one, is made.
        exchanged: rounds whose sums over all hosts, where the plan has several, are here.
    """
    plan, own = look.plan, look.words[slot]
    target = plan.round + 1
    if own.committed >= target:
        return Action(Do.DONE)
    if own.summed < target:
        return Action(Do.COMPUTE)
    stop = due[look.stage] if look.stage < len(due) else 0
    at = position(own.progress, plan.round)
    if look.stage and at >= 2 * stop:
        return Action(Do.AWAIT_SUMS)
    if plan.copy and copied < target:
        return Action(Do.AWAIT_COPY)
    if plan.hosts and exchanged < target:
        return Action(Do.AWAIT_HOSTS)
    if clipped and own.normed < target:
        return Action(Do.PUBLISH_NORMS)
    if clipped and not look.normed:
        return Action(Do.AWAIT_NORMS)
    if at >= 2 * stop:
        return Action(Do.COMMIT)
    return Action(Do.RESTORE if at & 1 else Do.UPDATE, at >> 1, stop)


def is_over(plan: Plan, committed: Callable[[int], int]) -> bool:
    """Whether every slot of the plan has committed its round."""
    return all(committed(slot) > plan.round for slot in range(plan.slots))


def in_force(plans: Sequence[Plan | None], committed: Callable[[int], int]) -> Plan | None:
    """Of the two plans in shared memory (None: being written) the one whose round is being done.

    >>> first, second = Plan(0, (0, 1), (0,)), Plan(1, (0, 1), (0,))
    >>> in_force([first, second], lambda slot: 0).round, in_force([first, second], lambda slot: 1).round
    (0, 1)
    """
    present = sorted((plan for plan in plans if plan is not None), key=lambda plan: plan.round)
    if len(present) == 2 and present[0].round + 1 == present[1].round and not is_over(present[0], committed):
        return present[0]
    return present[-1] if present else None


def owner(member: int, heir_of: Callable[[int], int | None]) -> int:
    """Who owns what a plan gave to a member: itself while it lives, else its heir, or the heir's heir.

    >>> owner(3, {3: 5, 5: 6}.get), owner(4, {3: 5}.get)
    (6, 4)
    """
    while (heir := heir_of(member)) is not None:
        member = heir
    return member


def following(
    plan: Plan, boundaries: tuple[int, ...], members: tuple[int, ...], stages: int, due: bool, asked: int, stop: bool,
    hosts: tuple[int, ...] = (),
) -> Plan:  # fmt: skip
    """The plan of the next round, as slot 0's owner stamps it before it commits.

    Args:
        plan: the plan in force.
        boundaries: the next shares.
        members: the supervisor's seats.
        stages: slots of a pipe in that round.
        due: whether the next round begins with a checkpoint that the settings ask for.
        asked: copies asked for so far.
        stop: whether the run ends here.
        hosts: the hosts' next shares.
    """
    return Plan(plan.round + 1, boundaries, members, stages, due or asked > plan.asked, stop, asked, hosts)
