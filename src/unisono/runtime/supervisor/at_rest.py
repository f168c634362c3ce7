"""A run comes to rest: all workers are ended, at a place from which it can go on or be saved."""

from __future__ import annotations

import time
from dataclasses import dataclass

from unisono.errors import UnisonoError
from unisono.errors.failure import described_error
from unisono.runtime.processes.child import Child
from unisono.runtime.rules.crew import STRIKES
from unisono.runtime.rules.plan import Plan
from unisono.runtime.state.control import Control
from unisono.runtime.supervisor.crew_control import CrewControl, is_dead
from unisono.runtime.supervisor.hangs import Hangs
from unisono.runtime.supervisor.outputs import OUTPUT
from unisono.runtime.supervisor.parent_link import WarmParentLost
from unisono.runtime.supervisor.running import Running
from unisono.runtime.supervisor.site import Site
from unisono.runtime.supervisor.succession import Succession


@dataclass
class Rest:
    """Ends the workers of a running job.

    Args:
        run: the job.
        site: this host.
        crew: its processes.
        succession: looks after the warm parent.
        hangs: knows who hangs.
    """

    run: Running
    site: Site
    crew: CrewControl
    succession: Succession
    hangs: Hangs

    def come(self) -> None:
        """Abandon the round, whatever fails meanwhile: each of the workers may be buried once."""
        for _ in range(STRIKES + len(self.run.members)):
            try:
                self.abandon()
                return
            except Exception as error:
                self.site.listener.message(f"while the run came to rest: {described_error(error).message}")

    def abandon(self) -> None:
        """End all workers now; one more finishes a round whose update has begun, unless it fails or dies too often."""
        run, children = self.run, self.crew.children
        children.forgo("worker")
        self.crew.end_workers()
        self.succession.begin_anew()
        for _ in range(STRIKES):
            plan = run.records.plan
            if run.is_at_rest(plan):
                return
            run.control.publish(Control.STOP, 1)
            run.control.publish(Control.COPIED, plan.round + 1)
            last = run.crew.newcomer()
            run.state.heirs.name(last, None)
            for member in run.owners(plan):
                run.state.heirs.name(member, last)
            children.want("worker", last)
            self._await_round(last, plan)
            if self.crew.end_workers():  # it has failed, and would again
                return

    def _await_round(self, last: int, plan: Plan) -> None:
        """Until the last worker has finished the round of a plan, or has ended, or cannot be forked."""
        while self.run.records.plan.round == plan.round and self._is_coming(last):
            failure = None
            try:
                self._go_on(plan)
            except WarmParentLost as lost:
                failure = self.succession.lost(lost)
            except UnisonoError as error:
                failure = described_error(error)
            if failure is not None:
                self.site.listener.message(f"a step whose update has begun could not be finished: {failure.message}")
                self.crew.children.forgo("worker")

    def _go_on(self, plan: Plan) -> None:
        for key, _ in self.site.outputs.selector.select(0):
            self.hear(key.fd, key.data)
        self.succession.go_on()
        self.crew.children.go_on()
        if elapsed := self.hangs.due():
            self.site.host.look()
            self.hangs.end_workers(plan, elapsed)

    def hear(self, file: int, what: object) -> bool:
        """Take what has come from a process of this host; returns whether it has.

        Args:
            file: where something has come.
            what: what the selector knows of it.
        """
        if what == OUTPUT:
            self.site.outputs.read(file)
        elif what is self.site.host:
            self.site.host.hear()
        elif isinstance(what, Child) and file == what.report:
            if what in self.crew.children.living:
                self.crew.children.hear(what)
        else:
            return False
        return True

    def _is_coming(self, member: int) -> bool:
        """Whether a worker lives, or is still to be forked; waits for a moment."""
        if member in self.run.members:
            return not is_dead(self.run.members[member], 0.001)
        time.sleep(0.001)
        return self.crew.children.awaits("worker") and not self.succession.is_over
