"""A worker's life: see which slots are its own, do what their words ask for, wait, again.

Every decision is `protocol.next_action`; this file only carries it out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from unisono.errors.failure import WorkerFailed, failure
from unisono.memory.words import Words
from unisono.runtime.rules.plan import WAITS, Action, Do, Look, Plan, SlotWords, is_over, next_action, owner
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.control import HANDED, Control
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import MEMBERS
from unisono.runtime.worker.context import Context
from unisono.runtime.worker.next_plan import stamp_next
from unisono.runtime.worker.pipeline_slot import Awaited
from unisono.runtime.worker.slot import SlotWork

SHORT_SECONDS = 0.01
"""How long a wait may oversleep a death: nobody is woken by a word that its dead owner will not write."""

SEVERAL_SECONDS = 0.001
"""The same for who waits for several words: only one of them wakes it."""

HAND_OVER_SPINS = 10
"""How many times as long a wait for a neighbouring stage looks before it sleeps: it is short, and many follow."""

PREPARED_SLOTS = 8
"""Slots that a newcomer prepares for."""


class HostWords(Sequence[SlotWords]):
    """The slot words of a host, read when they are looked at."""

    def __init__(self, state: HostState, spin_seconds: float) -> None:
        self.summed, self.normed, self.progress, self.committed = (
            Words(state.segment, name, spin_seconds) for name in SlotWords._fields
        )
        self._slots = state.layout.shape.most

    def __len__(self) -> int:
        return self._slots

    def __getitem__(self, slot: int) -> SlotWords:  # type: ignore[override]
        return SlotWords(
            self.summed.get(slot), self.normed.get(slot), self.progress.get(slot), self.committed.get(slot)
        )


class Worker:
    """One member.

    Args:
        member: its number.
        context: what the work needs.
        spin_seconds: how long waits look before they sleep.
        poke: wakes the supervisor.
    """

    def __init__(self, member: int, context: Context, spin_seconds: float, poke: Callable[[], None]) -> None:
        state = context.state
        self._member, self._context, self._state, self._poke = member, context, state, poke
        self._words = HostWords(state, spin_seconds)
        self._control = Words(state.segment, "control", spin_seconds)
        self._handed = {name: Words(state.segment, name, HAND_OVER_SPINS * spin_seconds) for name in HANDED}
        self._awaited: dict[int, Awaited] = {}
        self._slots: dict[tuple[int, int], SlotWork] = {}

    def run(self, after_round: Callable[[], None] | None = None) -> None:
        """Work until a plan says stop, or the supervisor ends the run at a copy.

        Raises:
            WorkerFailed: the job failed here.
        """
        self._warm_up()
        self._state.segment["joined"][self._member % MEMBERS] = self._member + 1
        self._poke()
        while True:
            plan = self._state.plans.in_force()
            if plan is None:
                time.sleep(0)
                continue
            if plan.stop:
                return
            round_ = self._context.program.at(plan.round)
            self._context.schedule.catch_up(plan.round, self._state.segment)
            if plan.copy:
                self._poke()
            if not self._round(plan, round_):
                return
            if after_round:
                after_round()

    def _warm_up(self) -> None:
        """Be ready for any seat of a small world before taking one: nobody waits for a newcomer's first touches."""
        plan = self._state.plans.in_force()
        if plan is not None and not plan.stop:
            for slot in range(min(plan.slots, PREPARED_SLOTS)):
                self._slot(plan, slot).touch(plan)
            if plan.round and not self._context.cuts:
                self._context.adapter.rehearse()

    def _round(self, plan: Plan, round_: Round) -> bool:
        """Until the round is over; False when the run ends in it."""
        while True:
            deaths = self._control.get(Control.DEATHS)
            owners = [owner(member, self._state.heirs.of) for member in plan.members]
            mine = [slot for slot, member in enumerate(owners) if member == self._member]
            self._awaited.clear()
            waiting = Action(Do.DONE)
            for slot in mine:
                action = self._work(plan, round_, slot)
                waiting = action if waiting.do in (Do.DONE, Do.AWAIT_STAGE) else waiting
            if is_over(plan, self._words.committed.get):
                return True
            if waiting.do is Do.AWAIT_COPY and self._control.get(Control.END) > plan.round:
                return False
            self._wait(plan, mine, Do.AWAIT_STAGE if self._awaited else waiting.do, deaths)

    def _work(self, plan: Plan, round_: Round, slot: int) -> Action:
        """Work on a slot until it has to wait; returns for what."""
        work = self._slot(plan, slot)
        work.begin(plan.round)
        due = () if round_.evaluation is not None else work.due
        clipped = self._context.job.waits_for_norms and round_.evaluation is None
        while True:
            copied, exchanged = self._control.get(Control.COPIED), self._control.get(Control.EXCHANGED)
            action = next_action(Look(plan, self._words), slot, due, clipped, copied, exchanged)
            if action.do in WAITS:
                return action
            self._context.request.phase(action.do.name.lower(), plan.round, slot, action.chunk)
            awaited = self._perform(work, plan, round_, action)
            if awaited is not None:
                self._awaited[slot] = awaited
                return Action(Do.AWAIT_STAGE)

    def _perform(self, work: SlotWork, plan: Plan, round_: Round, action: Action) -> Awaited | None:
        """Do an action; returns what it has to wait for in its middle, if anything."""
        slot, words = work.slot, self._words
        try:
            if action.do is Do.COMPUTE:
                awaited = work.compute(plan, round_)
                if awaited is not None:
                    return awaited
                words.summed.publish(slot, plan.round + 1)
            elif action.do is Do.PUBLISH_NORMS:
                work.publish_norms(plan, round_)
                words.normed.publish(slot, plan.round + 1)
            elif action.do in (Do.UPDATE, Do.RESTORE):
                work.update(plan, round_, action, words.progress)
            else:
                work.finish(plan, round_)
                self._context.request.phase("stamp", plan.round, slot, 0)
                if slot == 0:
                    stamp_next(self._context, plan, round_)
                self._context.request.phase("publish", plan.round, slot, 0)
                words.committed.publish(slot, plan.round + 1)
            return None
        except WorkerFailed:
            raise
        except Exception as error:
            trains, step = round_.evaluation is None, round_.step
            at = f"step {step + 1}" if trains else f"evaluation after step {step}"
            raise WorkerFailed(failure(error, f"worker {slot}, {at}")) from error

    def _slot(self, plan: Plan, slot: int) -> SlotWork:
        key = (plan.slots, slot)
        if key not in self._slots:
            self._slots = {k: work for k, work in self._slots.items() if k[0] == plan.slots}
            self._slots[key] = SlotWork(self._context, plan.slots, slot)
        return self._slots[key]

    def _wait(self, plan: Plan, mine: Sequence[int], do: Do, deaths: int) -> None:
        """Sleep until the first word that is behind has come, or an owner has changed."""
        target, started = plan.round + 1, time.perf_counter()

        def changed() -> bool:
            return self._control.get(Control.DEATHS) != deaths

        def ended() -> bool:
            return self._control.get(Control.END) > plan.round or changed()

        if do is Do.AWAIT_STAGE:
            self._wait_for_stages(changed)
        elif do is Do.AWAIT_COPY:
            self._control.wait(Control.COPIED, target, ended, SHORT_SECONDS)
        elif do is Do.AWAIT_HOSTS:
            self._control.wait(Control.EXCHANGED, target, changed, SHORT_SECONDS)
        else:
            words = {Do.AWAIT_SUMS: self._words.summed, Do.AWAIT_NORMS: self._words.normed}.get(
                do, self._words.committed
            )
            for slot in sorted(range(plan.slots), key=lambda slot: -(slot % plan.stages)):
                behind = words.get(slot) < target
                if not words.wait(slot, target, changed, SHORT_SECONDS):
                    break
                if behind and plan.stages > 1:  # a stage may be complete now
                    break
        if mine and do is not Do.DONE:
            self._slots[plan.slots, mine[0]].waited(time.perf_counter() - started)

    def _wait_for_stages(self, changed: Callable[[], bool]) -> None:
        """Until something that a slot of its own waits for has been handed over."""
        first, *others = self._awaited.values()

        def others_came() -> bool:
            return changed() or any(self._handed[word].get(slot) >= value for word, slot, value in others)

        look = SEVERAL_SECONDS if others else SHORT_SECONDS
        self._handed[first.words].wait(first.slot, first.value, others_came, look)
