"""The loop of a supervisor: it hears what happens on this host and sees to it that the run goes on."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from unisono.errors import UsageError
from unisono.errors.failure import Failure, described_error
from unisono.runtime.processes.child import Child
from unisono.runtime.processes.profiler import Profiler
from unisono.runtime.rules.plan import Plan
from unisono.runtime.state.control import Control
from unisono.runtime.supervisor.at_rest import Rest
from unisono.runtime.supervisor.children import NotForked
from unisono.runtime.supervisor.control_socket import ControlSocket
from unisono.runtime.supervisor.crew_control import TICK_SECONDS, CrewControl
from unisono.runtime.supervisor.generation_control import REST_SECONDS, GenerationControl
from unisono.runtime.supervisor.hangs import CommonPatience, Hangs
from unisono.runtime.supervisor.parent_link import WarmParentLost
from unisono.runtime.supervisor.regrouping import Regrouping
from unisono.runtime.supervisor.resizing import Resizing
from unisono.runtime.supervisor.running import Running
from unisono.runtime.supervisor.site import Site
from unisono.runtime.supervisor.succession import Succession

FINISH_SECONDS = 2.0
"""Patience with an interrupted run's round before it is abandoned."""

CATCH_UP_SECONDS = 5.0


@dataclass
class EventLoop:
    """Runs the rounds of a prepared job.

    Args:
        run: the job.
        site: this host.
        event: the file by which its processes wake this one.
        profiler: looks whether the run could be faster; None = nobody does.
    """

    run: Running
    site: Site
    event: int
    profiler: Profiler | None

    def __post_init__(self) -> None:
        self._ending, self._host, self._others = self.site.ending, self.site.host, self.site.others
        self._succession = Succession(self.run, self.site, self.event)
        self._hangs = Hangs(self.run, self.site)
        self._crew = CrewControl(self.run, self.site, self._hangs)
        self._rest = Rest(self.run, self.site, self._crew, self._succession, self._hangs)
        self._resizing = Resizing(self.run, self.site, self._crew, self._rest)
        self._regrouping = (
            Regrouping(self.run, self.site, self.site.others, self._crew, self._rest) if self.site.others else None
        )
        self._generations = GenerationControl(self.run, self.site, self.run.board) if self.run.board else None
        self._control: ControlSocket | None = None
        self._finishing: CommonPatience | None = None
        self._caught_up = 0.0

    def supervise(self, first: int, go_on: bool) -> None:
        """Until every round is done, the run has failed, or it was stopped. Whatever happens, it comes to rest.

        Args:
            first: the round to begin with.
            go_on: whether to do any.
        """
        ending = self._ending
        if self._regrouping:
            first = self._regrouping.join(first)
        self.run.begin(first)
        self._be_patient_no_more()
        try:
            self._guarded(lambda: self._begin(first, go_on and ending.shutdown is None))
            while ending.failure is None and self._guarded(self._turn):
                pass
            ending.fail(ending.shortage)
            if ending.failure is not None:
                self._rest.come()
        finally:
            if self._control:
                self._control.close()

    def _be_patient_no_more(self) -> None:
        """From now on the warm parent is waited for as workers are, and there is something to bring to rest."""
        answers, run = self._host.answers, self.run
        answers.is_patient, answers.stall_seconds = False, self.site.request.stall_seconds
        answers.interrupted = lambda: self._ending.is_due() and run.is_at_rest(run.records.plan)

    def _guarded(self, act: Callable[[], bool]) -> bool:
        """Do something, and return what it returns. The loss of the warm parent is made good; what else fails ends the
        run."""
        try:
            return act()
        except WarmParentLost as lost:
            self._ending.stop_for(self._succession.lost(lost))
        except NotForked as error:
            self._ending.stop_for(described_error(error))
        except UsageError:  # the hosts of the run do not fit together
            raise
        except Exception as error:
            self._ending.fail(described_error(error))
        return True

    def _begin(self, first: int, go_on: bool) -> bool:
        self._crew.begin(first, go_on)
        for index in range(self.run.described.layout.shape.loaders):
            self._crew.children.want("loader", index)
        self._control = self.site.caller.control(self._resizing.answer)
        if self._control:
            self.site.outputs.selector.register(self._control, selectors.EVENT_READ, self._control)
        return True

    def _turn(self) -> bool:
        """See what has happened since the last turn; returns whether there is to be another one."""
        run = self.run
        self._hear_all()
        plan, ending = run.records.plan, self._ending
        if self._regrouping and not run.is_ending(plan) and ending.failure is None and self._regrouping.is_due():
            self._regrouping.regroup()
            self._finishing = None
            return True
        if ending.failure is not None:
            return True
        self._crew.seat_newcomers()
        if self._generations:
            plan = self._generations.go_on(plan)
        self._copy_if_due(plan)
        self._drain(plan)
        self._have_forked()
        if self._is_over(plan):
            return self._regrouping is not None and self._regrouping.goes_on_with_fewer(plan)
        self._crew.end_retired(plan)
        return not self._look_after_time(plan)

    # -- what happens --------------------------------------------------------------------------------------

    def _hear_all(self) -> None:
        """Take what has come."""
        for key, _ in self.site.outputs.selector.select(TICK_SECONDS):
            self._handle(key.fd, key.data)
        if self._control:
            self._control.let_go_of_late()

    def _handle(self, file: int, what: Any) -> None:
        if self._rest.hear(file, what):
            return
        if what == "event":
            with suppress(BlockingIOError):
                os.eventfd_read(self.event)
        elif isinstance(what, ControlSocket):
            what.serve()
        elif self._others and what is self._others:
            self._others.hear()
        elif what in self._crew.children.living:
            (self._profiled if what.role == "profiler" else self._crew.ended)(what)

    def _profiled(self, child: Child) -> None:
        """The spare process has ended, whatever of."""
        self._host.lacked_memory(self._crew.children.bury(child))  # its death is not the next one's
        advice = self.profiler.advice(*self.run.state.segment["profile"].tolist()) if self.profiler else None
        if advice:
            self.site.listener.message(advice)

    # -- what is to be done --------------------------------------------------------------------------------

    def _copy_if_due(self, plan: Plan) -> None:
        """Between two rounds the state stands still; nobody updates before COPIED says so."""
        run = self.run
        if not plan.copy or plan.stop or run.control.get(Control.COPIED) > plan.round:
            return
        self._drain(plan)
        go_on = self._ending.failure is None and self.site.keeper.copy(run.described, run.state, plan.round)
        if go_on:
            run.control.publish(Control.COPIED, plan.round + 1)
        else:
            run.control.publish(Control.END, plan.round + 1)
            run.control.wake(Control.COPIED)

    def _drain(self, plan: Plan) -> None:
        self.run.drain()
        if self.site.keeper.copy_wanted():
            self.run.control.publish(Control.ASKED, plan.asked + 1)

    def _have_forked(self) -> None:
        """See to it that whoever is to be forked is forked; remind the warm parent of the round now and then."""
        self._succession.go_on()
        self._crew.children.go_on()
        if not self._host.is_free:
            return
        self._succession.begin_anew()
        if time.monotonic() - self._caught_up >= CATCH_UP_SECONDS and not self._generations:  # they may go back
            self._caught_up = time.monotonic()
            self._host.post("catch_up", self.run.records.plan.round, then=_caught)
            if self.profiler and self.profiler.is_due:
                self._crew.children.want("profiler", 0)

    def _is_over(self, plan: Plan) -> bool:
        """Whether there is nobody at work any more, and nobody to come."""
        coming = self._ending.shortage is None and self._crew.children.awaits("worker")
        return not (self.run.members or coming or self._resizing.waits(plan))

    def _look_after_time(self, plan: Plan) -> bool:
        """See who hangs, and whether the run is to stop; returns whether it has been abandoned for that."""
        if elapsed := self._hangs.due():
            self._host.look()
            self._hangs.end_workers(plan, elapsed)
            if not self.run.is_ending(plan) and not self._resizing.paused:
                self._hangs.end_loaders(plan, self._crew.children.living, elapsed)
            if self._finishing and self._finishing.spend(self.run.members.values(), elapsed):
                self._rest.abandon()
                return True
        if not self._ending.is_due():
            return False
        assert self._ending.shutdown
        if self._finishing is None:
            if not self._others and self._ending.shortage is None:
                self.site.listener.message("stopping after the step at hand; another interrupt ends at once")
            self._finishing = CommonPatience(2 * REST_SECONDS if self._generations else FINISH_SECONDS)
        if self.run.control.get(Control.STOP) != self._ending.shutdown.word:
            self.run.control.publish(Control.STOP, self._ending.shutdown.word)
        return False

    def close(self) -> None:
        """End all processes but the warm parent."""
        self._crew.close()
        if self._generations:
            self._generations.close()


def _caught(answer: Any) -> None:
    if isinstance(answer, Failure):
        raise answer.error()
