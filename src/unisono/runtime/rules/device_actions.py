"""What a worker that owns a device does next, as a pure function of what it sees: see `generations`.

No action waits for another process: collectives are begun, and looked at. So a worker sees soon that its generation was
ended, whatever its partners have died of. The exhaustive model in tests/runtime/rules/test_generations.py runs these
very functions through every order of events and deaths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from unisono.runtime.rules.generations import Generation, ReplicaWords, stamp


class DeviceAction(Enum):
    """What a member does next."""

    AWAIT_GENERATION = "wait for a generation that it takes part in"
    LEAVE = "abandon the round and the group, and say so"
    LOAD = "load the copy of the generation's round from the host's memory"
    AWAIT_STATE = "wait until the source has left a copy of the generation's round"
    STAGE = "leave a copy of its state in the host's memory, in place of the older one"
    AWAIT_COPY = "wait until the supervisor has seen the newest copy: it may be a checkpoint, or the end of the run"
    JOIN = "begin to join the generation's group"
    COMPUTE = "compute its microbatches, fold them on the device, leave their rows"
    AWAIT_HEADERS = "wait until all ranks have left the rows of the round"
    FAIL = "end the run: a row is not finite"
    AWAIT_RECORDS = "wait until the supervisor has read the oldest record"
    EXCHANGE = "begin to exchange nodes and sums"
    AWAIT_EXCHANGE = "wait until this rank's sums are complete"
    UPDATE = "update the replica, leave the record, say so once the device is done"
    COMMIT = "leave the record of a round that updates nothing"
    DONE = "nothing: no round is left"


DEVICE_WAITS = frozenset(
    {
        DeviceAction.AWAIT_GENERATION, DeviceAction.AWAIT_STATE, DeviceAction.AWAIT_COPY, DeviceAction.AWAIT_HEADERS,
        DeviceAction.AWAIT_RECORDS, DeviceAction.AWAIT_EXCHANGE, DeviceAction.DONE,
    }
)  # fmt: skip


@dataclass(frozen=True)
class DeviceLook:
    """One look at the host's shared memory.

    Attributes:
        generation: the present one.
        ended: the number of the last one that was ended.
        words: of its members, by rank.
        copies: the words of the host's two copies: rounds done in them, plus one; 0 = it is not whole.
        seen: the word of the newest copy that the supervisor has seen to.
        drained: rounds whose records were read.
    """

    generation: Generation
    ended: int
    words: Sequence[ReplicaWords]
    copies: Sequence[int]
    seen: int
    drained: int

    @property
    def older(self) -> int:
        """Which of the two copies may be written over."""
        return min(range(len(self.copies)), key=self.copies.__getitem__)


@dataclass(frozen=True)
class Own:
    """What only the process itself knows.

    Attributes:
        joined: the generation whose group it is in.
        begun: `stamp` of the round whose exchange it has begun.
        complete: whether that is complete, here.
    """

    joined: int = 0
    begun: int = 0
    complete: bool = False


def next_device_action(
    look: DeviceLook, rank: int, own: Own, training: bool | None, due: bool, judged: bool, records: int
) -> DeviceAction:
    """What a member does next.

    Args:
        look: at the host's memory.
        rank: the member's in the present generation.
        own: what it knows itself.
        training: whether its next round is one of training; None = it has done all rounds.
        due: whether a copy of the state before its next round is wanted.
        judged: whether the run may end with that state: nobody goes on before the supervisor has seen a copy of it.
        records: how many records a rank can leave before the first is read.
    """
    now, words = look.generation, look.words[rank]
    if words.rested >= now.number:
        return DeviceAction.AWAIT_GENERATION
    if look.ended >= now.number:
        return DeviceAction.LEAVE
    if words.held <= now.round:
        return DeviceAction.LOAD if max(look.copies) > now.round else DeviceAction.AWAIT_STATE
    over = now.stops or training is None
    if rank == now.source and max(look.copies) < words.held and (over or due or judged or _is_lacked(look)):
        return DeviceAction.STAGE if max(look.copies) <= look.seen else DeviceAction.AWAIT_COPY
    if over:
        return DeviceAction.DONE
    if judged and look.seen < words.held:
        return DeviceAction.AWAIT_COPY
    return _in_round(look, rank, own, bool(training), records)


def _is_lacked(look: DeviceLook) -> bool:
    """Whether somebody waits for a copy of the generation's round."""
    return any(other.held <= look.generation.round for other in look.words)


def _in_round(look: DeviceLook, rank: int, own: Own, training: bool, records: int) -> DeviceAction:
    now, done = look.generation, look.words[rank].held - 1
    together, target = len(now.members) > 1, stamp(now.number, done)
    if together and own.joined != now.number:
        return DeviceAction.JOIN
    if look.words[rank].headed < target:
        return DeviceAction.COMPUTE
    if any(other.headed < target for other in look.words):
        return DeviceAction.AWAIT_HEADERS
    if any(other.unsound == target for other in look.words):
        return DeviceAction.FAIL
    if done >= look.drained + records:
        return DeviceAction.AWAIT_RECORDS
    if not training:
        return DeviceAction.COMMIT
    if together and own.begun != target:
        return DeviceAction.EXCHANGE
    if together and not own.complete:
        return DeviceAction.AWAIT_EXCHANGE
    return DeviceAction.UPDATE
