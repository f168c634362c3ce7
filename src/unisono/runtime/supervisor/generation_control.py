"""Carries out what the rule of generations says of a run whose workers own devices: see `next_generation`."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from unisono.runtime.rules.generations import (
    End,
    Generation,
    ReplicaWords,
    is_over,
    next_generation,
    overdue,
    recorded,
)  # fmt: skip
from unisono.runtime.rules.plan import Plan, even
from unisono.runtime.state.control import Control
from unisono.runtime.state.generation_board import GenerationBoard
from unisono.runtime.supervisor.running import Running
from unisono.runtime.supervisor.site import Site

REST_SECONDS = 10.0
"""How long members of a generation that was ended may take to come to rest."""


@dataclass
class GenerationControl:
    """The generations of a running job.

    The plans that loaders, and all that look at the run, go by say how far it has come; here only the supervisor writes
    them, and they never go back.

    Args:
        run: the job.
        site: this host.
        board: where they stand.
    """

    run: Running
    site: Site
    board: GenerationBoard
    _now: Generation | None = field(init=False, default=None)
    _store: int = field(init=False, default=-1)
    _ended_at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._control = self.run.control

    def go_on(self, plan: Plan) -> Plan:
        """Look at what the members have done, and do what is due.

        Args:
            plan: the plan in force.

        Returns:
            The plan in force now.
        """
        run, ended, stop = self.run, self._control.get(Control.ENDED), bool(self._control.get(Control.STOP))
        plan = self._take_note(plan)
        if self._control.get(Control.END) > plan.round:
            return self._stamp(plan.round, plan.members, stop=True)
        known = self._words(run.crew.present)
        newest = max(self.board.copied())
        if is_over(self._now, newest, run.described.program.rounds, plan.round, stop):
            return self._stamp(plan.round, plan.members, stop=True)
        microbatches = run.described.layout.shape.microbatches
        decision = next_generation(
            self._now, ended, known, run.state.plans.seats(), newest, microbatches, plan.round, stop
        )
        if isinstance(decision, End):
            self._ended_at = time.monotonic()
            self._control.publish(Control.ENDED, decision.number)
        elif decision is not None:
            plan = self._take_note(plan)
            if max(self.board.copied()) == newest and self._control.get(Control.END) <= plan.round:
                plan = self._begin(decision, plan)
        elif self._now and time.monotonic() - self._ended_at > REST_SECONDS:
            for member in overdue(self._now, ended, known):
                self.site.listener.message(f"{run.members[member].name} does not leave its group, and is ended.")
                run.members[member].kill()
        return plan

    def _words(self, members: set[int] | tuple[int, ...]) -> dict[int, ReplicaWords]:
        return {member: self.board.words(member) for member in members}

    def _take_note(self, plan: Plan) -> Plan:
        """Hand on the records of all rounds that are done, and the newest copy where those before it end."""
        copied = self.board.copied()
        rounds = max(copied) - 1
        if rounds + 1 > self._control.get(Control.COPIED):
            plan = self._drain(plan, rounds)
            asked = self._control.get(Control.ASKED)
            run, keeper = self.run, self.site.keeper
            if self.site.ending.failure is None and not keeper.copy(run.described, self.board.newest()[0], rounds):
                self._control.publish(Control.END, rounds + 1)  # no other copy comes: this one is the result
                return plan
            self._control.publish(Control.SERVED, asked)
            self._control.publish(Control.COPIED, rounds + 1)
        return self._drain(plan, None)

    def _drain(self, plan: Plan, most: int | None) -> Plan:
        if self._now is None:
            return plan
        rounds, member = recorded(self._now, self._words(self._now.members))
        rounds = rounds if most is None else min(rounds, most)
        if rounds > plan.round:
            plan = self._stamp(rounds, self._now.members)
            self.run.records.source = self._now.members.index(member)
            self.run.drain()
        return plan

    def _begin(self, generation: Generation, plan: Plan) -> Plan:
        if self._store >= 0:
            os.close(self._store)
        self._store = os.memfd_create(generation.group, os.MFD_CLOEXEC)
        self._now = generation
        plan = self._stamp(plan.round, generation.members)
        self.board.write(generation, (os.getpid(), self._store))
        return plan

    def _stamp(self, rounds: int, members: tuple[int, ...], stop: bool = False) -> Plan:
        run = self.run
        shape = run.described.layout.shape
        for slot in range(shape.most):
            run.words.committed.publish(slot, rounds)
        asked = self._control.get(Control.SERVED)
        plan = Plan(rounds, even(shape.microbatches, len(members)), members, stop=stop, asked=asked)
        run.state.plans.stamp(plan)
        return plan

    def close(self) -> None:
        """Give back what is held."""
        if self._store >= 0:
            os.close(self._store)
            self._store = -1
