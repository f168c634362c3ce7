"""A running job as its supervisor sees it: the shared state, the crew, its processes, and questions about them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from unisono.runtime.preparation.prepared import Described
from unisono.runtime.processes.child import Child
from unisono.runtime.rules.crew import Crew, Work
from unisono.runtime.rules.plan import WAITS, Do, Look, Plan, next_action, owner, position
from unisono.runtime.rules.rounds import Rounds
from unisono.runtime.rules.stalls import BEGINNING, LEAVING
from unisono.runtime.state.control import HANDED, Control
from unisono.runtime.state.generation_board import GenerationBoard
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import ACTION
from unisono.runtime.state.model_state import ModelState
from unisono.runtime.state.records import Records
from unisono.runtime.worker.worker import HostWords


class Standing(NamedTuple):
    """What a member or a loader is at.

    Attributes:
        kind: the kind of work; "" = it waits for others.
        slots: whose work.
        mark: what changes as it goes on.
    """

    kind: str
    slots: tuple[int, ...] = ()
    mark: Any = None


@dataclass
class Running:
    """What the supervisor holds of a running job.

    Args:
        described: the prepared job.
        state: the shared memory.
        hand_on: takes each round's record.

    Attributes:
        rounds: who decides what the next one does.
        records: what the slots write about rounds.
        crew: the recovery policy.
        words, control: the slots' words, the supervisor's own.
        members: the workers' processes by member number.
        board: where generations stand, if workers have replicas.
    """

    described: Described
    state: HostState
    hand_on: Callable[[dict[str, Any]], None]

    def __post_init__(self) -> None:
        self.rounds: Rounds = self.described.program
        self.words, self.control = HostWords(self.state, 0.0), self.state.control
        self.records, self.crew = Records(self.state), Crew(self.described.layout.shape.slots)
        self.members: dict[int, Child] = {}
        self.board = GenerationBoard(self.state) if self.described.layout.shape.replicas else None

    def begin(self, first: int) -> None:
        """No worker is there: the next ones begin with this round."""
        latest = self.records.latest
        self.records = Records(self.state, first)
        self.records.latest = latest
        self.state.begin(first)
        if self.board:
            self.board.begin(first)

    def crew_anew(self, wanted: int) -> None:
        """All workers have ended: others of this number are to come."""
        self.control.publish(Control.STOP, 0)
        self.crew = Crew(wanted, next_member=self.crew.next_member)

    def drain(self) -> None:
        """Hand on the records of all rounds that have been done."""
        self.records.drain(self.hand_on)

    def wake_everybody(self) -> None:
        """Have all workers look at who owns what."""
        for slot in range(self.described.layout.shape.most):
            for kind in (self.words.summed, self.words.normed, self.words.committed):
                kind.wake(slot)
        self.control.wake(Control.COPIED)

    def owners(self, plan: Plan) -> set[int]:
        """The members that own a plan's slots now."""
        return {owner(member, self.state.heirs.of) for member in plan.members}

    def result(self) -> tuple[ModelState, int]:
        """The state in the host's memory, and the rounds done in it."""
        return self.board.newest() if self.board else (self.state, self.records.plan.round)

    def is_done(self, plan: Plan) -> bool:
        """Whether no round is left to do, or the checkpoint before this one has ended the run."""
        return self.rounds.next(plan.round) is None or self.control.get(Control.END) > plan.round

    def is_ending(self, plan: Plan) -> bool:
        """Whether workers end because the run does."""
        return plan.stop or self.control.get(Control.END) > plan.round

    def is_at_rest(self, plan: Plan) -> bool:
        """Whether no slot has begun to update in the plan's round."""
        return all(position(self.words[slot].progress, plan.round) == 0 for slot in range(plan.slots))

    def work_of(self, child: Child, plan: Plan) -> Work | None:
        """The microbatch of a slot of its own that a process was computing (a loader: reading), or the rest of the
        round; None = it had not begun yet."""
        if child.role == "worker":
            for slot, member in enumerate(plan.members):
                word = int(self.state.segment["computing"][slot, 0])
                mine = owner(member, self.state.heirs.of) == child.number
                if mine and word >> 32 == plan.round and word & 0xFFFFFFFF:
                    return Work(plan.round, (word & 0xFFFFFFFF) - 1)
            return Work(plan.round, -1)
        word, sample, begun = self.state.segment["reading"][child.number, :3].tolist()
        return Work(word >> 32, (word & 0xFFFFFFFF) - 1, sample - 1) if begun else None

    def loader_begins(self, number: int) -> None:
        """A loader is to be forked: nothing is known of it yet."""
        self.state.segment["reading"][number] = 0

    def loader(self, number: int, awaited: Collection[int]) -> Standing:
        """What a loader is at: it also has work to do while somebody waits for it.

        Args:
            number: the loader's.
            awaited: see `awaited_loaders`.
        """
        word, _, begun = self.state.segment["reading"][number, :3].tolist()
        if not begun:
            return Standing(BEGINNING)
        return Standing("reading" if word or number in awaited else "", (), (word, begun))

    def awaited_loaders(self, plan: Plan) -> set[int]:
        """The loaders that have not read yet what a slot of a plan is to compute now."""
        shape = self.described.layout.shape
        at = self.state.segment["computing"][: plan.slots, 0].tolist()
        return {
            (plan.round + (word & 0xFFFFFFFF) - 1) % shape.loaders for word in at if self._awaits_loader(plan, word)
        }

    def standings(self, plan: Plan, clipped: bool) -> dict[int, Standing]:
        """What the members are at: those that are to come, and those that own a plan's slots now; from one look at all
        slots. Who is left out has nothing to do.

        Args:
            plan: the plan in force.
            clipped: whether the job clips gradients.
        """
        if self.is_ending(plan):
            return {m: Standing(BEGINNING if m in self.crew.coming else LEAVING) for m in self.members}
        if self.board:
            return self._with_replicas(plan, self.board)
        look = Look(plan, [self.words[slot] for slot in range(plan.slots)])
        owned: dict[int, list[int]] = {}
        for slot, member in enumerate(plan.members):
            owned.setdefault(owner(member, self.state.heirs.of), []).append(slot)
        found = {member: self._standing(look, tuple(slots), clipped) for member, slots in owned.items()}
        return found | dict.fromkeys(self.crew.coming, Standing(BEGINNING))

    def _with_replicas(self, plan: Plan, board: GenerationBoard) -> dict[int, Standing]:
        found = dict.fromkeys(self.crew.coming, Standing(BEGINNING))
        for rank, member in enumerate(plan.members):
            at, acts = self.state.segment["computing"][rank, [0, ACTION]].tolist()
            if acts and not self._awaits_loader(plan, at):
                kind = "compute" if at & 0xFFFFFFFF else "update"
                found[member] = Standing(kind, (rank,), (at, acts, board.words(member)))
        return found

    def _standing(self, look: Look, slots: tuple[int, ...], clipped: bool) -> Standing:
        plan, round_ = look.plan, self.rounds.next(look.plan.round)
        training = round_ is not None and round_.evaluation is None
        copied, exchanged = self.control.get(Control.COPIED), self.control.get(Control.EXCHANGED)
        marks: list[Any] = []
        kind = ""
        for slot in slots:
            due = self.described.layout.due(plan.slots, slot) if training else ()
            action = next_action(look, slot, due, clipped and training, copied, exchanged)
            at = int(self.state.segment["computing"][slot, 0])
            marks.append((plan.round, at, look.words[slot]))
            if action.do is Do.COMPUTE and self._awaits_loader(plan, at):
                return Standing("")  # it turns to no other slot before the samples are there
            if action.do not in WAITS and not (action.do is Do.COMPUTE and self._awaits_stage(plan, slot)):
                kind = action.do.name.lower()
        if kind and not training:
            kind = f"evaluation {kind}"
        return Standing(kind, slots, tuple(marks))

    def _awaits_stage(self, plan: Plan, slot: int) -> bool:
        """Whether a slot waits for what a neighbouring stage has not handed over yet."""
        at, words, other, value = self.state.segment["computing"][slot, :4].tolist()
        if at != plan.round << 32 or plan.stages == 1:
            return False
        return bool(self.state.segment[HANDED[words]][other, 0] < value)

    def _awaits_loader(self, plan: Plan, at: int) -> bool:
        microbatch = (at & 0xFFFFFFFF) - 1
        if at >> 32 != plan.round or microbatch < 0:
            return False
        number = plan.round * self.described.layout.shape.microbatches + microbatch
        entry = number % self.described.layout.ring
        return int(self.state.segment["ready"][entry, 0]) < number + 1
