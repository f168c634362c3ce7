"""The supervisor of a run: owns the shared memory, watches the processes, carries out the recovery policy."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from unisono.errors import Interrupted, UnisonoError, UsageError
from unisono.errors.failure import Failure, described_error
from unisono.errors.traces import job_frames
from unisono.frameworks.registry import family_of
from unisono.machine.cores import Claims
from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.runtime.preparation.outline import JobFacts
from unisono.runtime.preparation.prepare import Request
from unisono.runtime.processes.child import Child
from unisono.runtime.processes.deaths import Death, given_up
from unisono.runtime.processes.profiler import Profiler
from unisono.runtime.rules.crew import STRIKES, Crew, Decision, Fork, Inherit, Retire, Seat, Work
from unisono.runtime.rules.plan import Plan
from unisono.runtime.rules.shutdown import ASKED, Fate, Shutdown, fate
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_shares import Agreement
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import MEMBERS
from unisono.runtime.state.records import Records
from unisono.runtime.supervisor.answers import readable
from unisono.runtime.supervisor.children import Children, NotForked
from unisono.runtime.supervisor.control_socket import ControlSocket
from unisono.runtime.supervisor.hangs import LOOK_SECONDS, CommonPatience, Hangs
from unisono.runtime.supervisor.observer import Outcome, Watcher
from unisono.runtime.supervisor.other_hosts import Companions, Own
from unisono.runtime.supervisor.outputs import OUTPUT, Outputs
from unisono.runtime.supervisor.running import Running
from unisono.runtime.supervisor.succession import Succession
from unisono.runtime.supervisor.warm_parent_client import Host, HostLost
from unisono.runtime.worker.worker import HostWords

TICK_SECONDS = 0.05
FINISH_SECONDS = 2.0
"""Patience with an interrupted run's round before it is abandoned."""

CATCH_UP_SECONDS = 5.0


class Supervisor:
    """Runs a job on this host's processes.

    Args:
        job: what is known of it here.
        host: its warm parent, which this closes at the end.
        request: what of the job, on what.
        watcher: hears of it.
        stall_seconds: see `Stalls`.
        companions: the way to the other hosts; None = this one is alone.
    """

    def __init__(
        self, job: JobFacts, host: Host, request: Request, watcher: Watcher, stall_seconds: float | None = None,
        companions: Companions | None = None,
    ) -> None:  # fmt: skip
        self._job, self._host, self._request, self._watcher = job, host, request, watcher
        self._selector = selectors.DefaultSelector()
        self._outputs = Outputs(self._selector)
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._claims = Claims(request.cores, request.threads)
        self._hangs, self._stall_seconds = Hangs(stall_seconds), stall_seconds
        self._failure: Failure | None = None
        self._paused = False
        self._shutdown: Shutdown | None = None
        self._last_death: Death
        self._last_stack = ""
        self._reason: Failure | None = None
        self._children = Children(host, self._watch, watcher.message)
        self._succession: Succession
        self._finishing: CommonPatience | None = None
        self._looked = self._caught_up = 0.0
        self._loader_strikes: dict[int, tuple[Work, int]] = {}
        self._companions = companions
        self._profiler: Profiler | None = None
        self._control: ControlSocket | None = None
        self._run: Running

    def run(self) -> Outcome:
        """Run to the end, to a failure or to a stop."""
        self._selector.register(self._event, selectors.EVENT_READ, "event")
        if self._companions:
            self._companions.open(self._selector, lambda: os.eventfd_write(self._event, 1), self._watcher)
        failed: Failure | None = Failure("its supervisor was ended")
        try:
            self._host.answers.say = self._watcher.message
            self._host.answers.interrupted = self._is_to_go
            self._host.attach(self._selector, self._outputs, partial(self._watcher.log, "host"))
            outcome = self._begin()
            failed = outcome.failure
            self._shutdown = outcome.shutdown
            return outcome
        except Interrupted as interrupted:
            failed, interrupted.shutdown = None, self._shutdown
            raise
        except Exception as error:
            failed = described_error(error)
            raise
        finally:
            if self._companions:
                self._companions.close(failed, self._shutdown)
            self._outputs.close_all()
            self._children.close()
            self._host.close()
            self._claims.close()
            self._selector.close()
            os.close(self._event)

    def _begin(self) -> Outcome:
        described = self._host.prepare(self._request, meanwhile=self._watcher.preparing)
        self._watcher.described(described)
        if not self._companions and described.cut is None and not self._request.trace:
            self._profiler = Profiler.of(described)
        segment = Segment.create(described.layout.segment)
        try:
            state = HostState(described.layout, segment)
            probe = self._host.share(described, segment.file, self._event)
            described = replace(described, probe=probe)
            first, go_on = self._watcher.restore(described, state)
            slots = described.layout.shape.slots
            self._run = Running(described, state, Records(state, first), Crew(slots), HostWords(state, 0.0),
                                Words(segment, "control", 0.0))  # fmt: skip
            if self._companions:
                first = self._join(first)
                self._run.records = Records(state, first)
            state.begin(first)
            self._be_at_work()
            self._supervise(first, go_on and self._shutdown is None)
            records = self._run.records
            records.drain(self._hand_on)
            plan = records.plan
            over = plan.round >= described.program.rounds or self._run.control.get(Control.END) > plan.round
            outcome = Outcome(
                described, state, plan.round, self._run.is_at_rest(plan), self._failure, segment.release,
                None if over or self._failure else self._shutdown,
            )  # fmt: skip
            self._export(outcome)
            return outcome
        except BaseException:
            segment.release()
            raise
        finally:
            if self._control:
                self._control.close()
            segment.close()

    def _be_at_work(self) -> None:
        """From now on the warm parent is waited for as workers are, and there is something to bring to rest."""
        answers = self._host.answers
        answers.is_patient, answers.stall_seconds = False, self._stall_seconds
        self._succession = Succession(
            self._host, self._run.described, self._succeed, self._stop_for, self._watcher.message
        )
        answers.interrupted = lambda: self._is_to_go() and self._run.is_at_rest(self._run.records.plan)

    def _succeed(self, then: Callable[[Any], None]) -> None:
        run = self._run
        files = run.state.segment.file, self._event
        self._host.succeed(self._request, run.described, run.records.plan.round, files, then)

    def _export(self, outcome: Outcome) -> None:
        """Have the model left in its framework's own file, if the framework has such files."""
        family = family_of(outcome.described.framework)
        wanted = self._request.folder is not None and family.model_file is not None and not outcome.left
        if not wanted or outcome.failure is not None or not outcome.consistent:
            return
        try:
            self._host.ask("export", outcome.steps_done)
        except UnisonoError as error:
            self._watcher.message(f"{family.model_file} was not written: {error}")

    def _man(self, first: int, go_on: bool = True, copy: bool = False) -> None:
        """Fork a crew that begins with this round, or (copy) with a look at the state; nobody is at work yet."""
        run = self._run
        decisions = run.crew.begin()
        stop = not go_on or first >= run.described.program.rounds or self._failure is not None
        run.state.plans.stamp(run.described.opening(first, run.crew.seats, stop, Agreement(run.state), copy))
        self._carry_out(decisions)

    # -- other hosts ---------------------------------------------------------------------------------------

    def _join(self, rounds: int) -> int:
        """Come together with the other hosts, all with the same state; returns the round that they begin with."""
        assert self._companions
        run = self._run
        about = Own(rounds, run.crew.wanted, run.records.latest, self._watcher.memory())
        joined = self._companions.join(run.described, run.state, about, self._is_to_go)
        if isinstance(joined, Failure):
            if joined.usage:
                raise UsageError(joined.message)
            self._failure = self._failure or joined
            return max(rounds, 0)
        if joined is None:
            return rounds
        if joined.missed is not None:
            self._hand_on(joined.missed)
        elif joined.rounds != rounds:
            self._watcher.remember(joined.memory)
        self._watcher.joined(joined.host, run.described, run.state, joined.rounds)
        return joined.rounds

    def _is_to_go(self) -> bool:
        """Whether this host leaves or the run ends: as somebody has said, here or on another host."""
        own, ends = self._watcher.interrupted(), self._companions.ending() if self._companions else None
        if self._shutdown is None and own is not None:
            self._go(own)
        if ends is not None and (self._shutdown is None or self._shutdown.leaves):
            self._shutdown = ends
        return self._shutdown is not None

    def _go(self, asked: Shutdown) -> None:
        others = self._companions
        self._shutdown = replace(asked, leaves=asked.leaves and others is not None and others.may_leave)
        if others:
            others.announce(self._shutdown)

    def _goes_on_with_fewer(self, plan: Plan) -> bool:
        """All workers have ended; returns whether that was because other hosts leave, and this one goes on."""
        run, agreement = self._run, Agreement(self._run.state)
        over = plan.round >= run.described.program.rounds or run.control.get(Control.END) > plan.round
        if self._companions is None or not agreement.stop or over:
            return False
        shutdowns = agreement.shutdowns
        self._companions.see_off(shutdowns)
        found = fate(shutdowns, agreement.host)
        if found is Fate.ENDS:
            first = next(each for each in shutdowns if each is not None)
            self._shutdown = replace(self._shutdown or first, leaves=False)
        if found is not Fate.GOES_ON or self._shutdown is not None:  # told since then
            return False
        self._regroup()
        return True

    def _regroup(self) -> None:
        """Another generation of hosts: come to rest, meet, go on from the round that the furthest of them has done."""
        assert self._companions
        run = self._run
        self._companions.part()
        self._abandon()
        run.records.drain(self._hand_on)
        run.leaving.clear()
        before, copied = run.records.plan.round, run.control.get(Control.COPIED)
        first = self._join(before)
        latest = run.records.latest
        run.records = Records(run.state, first)
        run.records.latest = latest
        run.state.begin(first)
        run.control.publish(Control.STOP, 0)
        run.crew = Crew(run.crew.wanted, next_member=run.crew.next_member)
        self._man(first, go_on=self._shutdown is None, copy=first > before or copied <= before)
        self._finishing = None

    # -- processes -----------------------------------------------------------------------------------------

    def _watch(self, child: Child) -> None:
        """A process has begun."""
        self._outputs.listen(child.output, self._watcher.log(child.name))
        for file in (child.pidfd, child.report):
            self._selector.register(file, selectors.EVENT_READ, child)
        if child.role == "worker":
            self._run.members[child.number] = child
            self._hold_to_cores(child)

    def _hold_to_cores(self, worker: Child) -> None:
        threads, cores = self._request.threads, self._request.cores
        with suppress(ProcessLookupError):
            if self._run.crew.wanted * threads <= len(cores) and (held := self._claims.of(worker.place)):
                os.sched_setaffinity(worker.process, held)

    def _unwatch(self, file: int) -> None:
        if file in self._selector.get_map():
            self._selector.unregister(file)

    def _hear(self, child: Child) -> None:
        """Take what a child says of itself; Python stacks in it go to its log."""
        stacks = child.hear()
        if stacks is None:
            self._unwatch(child.report)
        elif stacks:
            self._outputs.add(child.output, stacks)

    def _carry_out(self, decisions: list[Decision]) -> None:
        run = self._run
        for decision in decisions:
            if isinstance(decision, Fork):
                run.state.heirs.name(decision.member, None)
                self._children.want("worker", decision.member)
            elif isinstance(decision, Inherit):
                run.state.heirs.name(decision.dead, decision.heir)
                run.control.publish(Control.DEATHS, run.control.get(Control.DEATHS) + 1)
                self._wake_everybody()
            elif isinstance(decision, Seat):
                run.state.plans.seat(decision.members)
            elif isinstance(decision, Retire):
                run.leaving.add(decision.member)
            elif self._failure is None:
                self._failure = self._given_up(decision.work)
        agreement = Agreement(run.state)
        elsewhere = sum(agreement.workers) - agreement.workers[agreement.host] if agreement.several else 0
        self._watcher.workers(len(run.crew.present) + elsewhere, max(len(agreement.workers), 1))

    def _wake_everybody(self) -> None:
        words = self._run.words
        for slot in range(self._run.described.layout.shape.most):
            for kind in (words.summed, words.normed, words.committed):
                kind.wake(slot)
        self._run.control.wake(Control.COPIED)

    # -- the loop ------------------------------------------------------------------------------------------

    def _supervise(self, first: int, go_on: bool) -> None:
        """Until every round is done, the run has failed, or it was stopped. Whatever happens, it comes to rest."""
        self._guarded(partial(self._begin_with, first, go_on))
        self._looked = time.monotonic()
        while self._failure is None and self._guarded(self._turn):
            pass
        self._failure = self._failure or self._reason
        if self._failure is not None:
            self._come_to_rest()

    def _guarded(self, act: Callable[[], bool]) -> bool:
        """Do something, and return what it returns. The loss of the warm parent is made good; what else fails ends the
        run."""
        try:
            return act()
        except HostLost as lost:
            self._stop_for(self._succession.lost(lost))
        except NotForked as error:
            self._stop_for(described_error(error))
        except UsageError:  # the hosts of the run do not fit together
            raise
        except Exception as error:
            self._failure = self._failure or described_error(error)
        return True

    def _stop_for(self, reason: Failure | None) -> None:
        """Where there is a reason, nobody can be forked any more: stop after the step at hand, as those at work can."""
        if reason is None or self._companions:  # other hosts hear of a failure
            self._failure = self._failure or reason
            return
        self._reason = self._reason or reason
        if self._shutdown is None:
            self._go(Shutdown(False, ASKED))

    def _begin_with(self, first: int, go_on: bool) -> bool:
        self._man(first, go_on)
        for index in range(self._run.described.layout.shape.loaders):
            self._children.want("loader", index)
        self._control = self._watcher.control(self._answer)
        if self._control:
            self._selector.register(self._control, selectors.EVENT_READ, self._control)
        return True

    def _turn(self) -> bool:
        """See what has happened since the last turn; returns whether there is to be another one."""
        run = self._run
        self._hear_all()
        plan = run.records.plan
        if self._companions and not run.is_ending(plan) and self._failure is None:
            self._failure = self._companions.trouble()
            # Where some leave, all have exchanged, and come to rest after the same round.
            if self._failure is None and self._companions.is_called and not Agreement(run.state).stop:
                self._regroup()
                return True
        if self._failure is not None:
            return True
        self._look_for_newcomers()
        self._copy_if_due(plan)
        self._drain(plan)
        self._have_forked()
        if self._is_over(plan):
            return self._goes_on_with_fewer(plan)
        self._let_go(plan)
        return not self._look_after_time(plan)

    def _hear_all(self) -> None:
        """Take what has come."""
        for key, _ in self._selector.select(TICK_SECONDS):
            self._handle(key.fd, key.data)
        if self._control:
            self._control.let_go_of_late()

    def _have_forked(self) -> None:
        """See to it that whoever is to be forked is forked; remind the warm parent of the round now and then."""
        self._succession.go_on()
        self._children.go_on()
        if not self._host.is_free:
            return
        self._succession.begin_anew()
        if time.monotonic() - self._caught_up >= CATCH_UP_SECONDS:
            self._caught_up = time.monotonic()
            self._host.post("catch_up", self._run.records.plan.round, then=self._caught)
            if self._profiler and self._profiler.is_due:
                self._children.want("profiler", 0)

    @staticmethod
    def _caught(answer: Any) -> None:
        if isinstance(answer, Failure):
            raise answer.error()

    def _is_over(self, plan: Plan) -> bool:
        """Whether there is nobody at work any more, and nobody to come."""
        waits = self._paused and self._shutdown is None and plan.round < self._run.described.program.rounds
        coming = self._reason is None and self._children.awaits("worker")
        return not self._run.members and not waits and not coming

    def _look_after_time(self, plan: Plan) -> bool:
        """See who hangs, and whether the run is to stop; returns whether it has been abandoned for that."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._host.look()
            self._end_the_hung(plan, now - self._looked)
            if self._finishing and self._finishing.spend(self._run.members.values(), now - self._looked):
                self._abandon()
                return True
            self._looked = now
        if not self._is_to_go():
            return False
        assert self._shutdown
        if self._finishing is None:
            if self._companions is None and self._reason is None:
                self._watcher.message("stopping after the step at hand; another interrupt ends at once")
            self._finishing = CommonPatience(FINISH_SECONDS)
        if self._run.control.get(Control.STOP) != self._shutdown.word:
            self._run.control.publish(Control.STOP, self._shutdown.word)
        return False

    def _drain(self, plan: Plan) -> None:
        self._run.records.drain(self._hand_on)
        if self._watcher.copy_wanted():
            self._run.control.publish(Control.ASKED, plan.asked + 1)

    def _hand_on(self, record: dict[str, Any]) -> None:
        if self._profiler:
            self._profiler.record(record)
        self._watcher.record(record)

    def _handle(self, file: int, what: Any) -> None:
        if what == "event":
            with suppress(BlockingIOError):
                os.eventfd_read(self._event)
        elif what == OUTPUT:
            self._outputs.read(file)
        elif isinstance(what, ControlSocket):
            what.serve()
        elif self._companions and what is self._companions:
            self._companions.hear()
        elif what is self._host:
            self._host.hear()
        elif what in self._children.living and file == what.report:
            self._hear(what)
        elif what in self._children.living and what.role == "profiler":
            self._profiled(what)
        elif what in self._children.living:
            self._ended(what)

    def _look_for_newcomers(self) -> None:
        run = self._run
        joined = run.state.segment["joined"]
        for member in sorted(run.crew.coming):
            if joined[member % MEMBERS] == member + 1:
                self._carry_out(run.crew.joined(member))

    def _copy_if_due(self, plan: Plan) -> None:
        """Between two rounds the state stands still; nobody updates before COPIED says so."""
        run = self._run
        if not plan.copy or plan.stop or run.control.get(Control.COPIED) > plan.round:
            return
        self._drain(plan)
        go_on = self._failure is None and self._watcher.copy(run.described, run.state, plan.round)
        if go_on:
            run.control.publish(Control.COPIED, plan.round + 1)
        else:
            run.control.publish(Control.END, plan.round + 1)
            run.control.wake(Control.COPIED)

    def _let_go(self, plan: Plan) -> None:
        """End the members that no plan gives a slot any more."""
        run = self._run
        for member in list(run.leaving):
            if member not in run.owners(plan) and member in run.members:
                run.members[member].kill()
                run.leaving.discard(member)

    # -- deaths --------------------------------------------------------------------------------------------

    def _ended(self, child: Child) -> None:
        """A child has ended: let others go on at once, then see why."""
        run = self._run
        plan = run.records.plan
        self._look_for_newcomers()  # it may have joined, worked and died between two looks
        at = run.work_of(child, plan)
        worker = child.role == "worker"
        hung = child.process in run.dumping
        leaving = worker and child.number in run.crew.retiring
        early = worker and child.number in run.crew.coming
        if worker and run.is_ending(plan):
            run.crew.left(child.number)
        elif worker:
            self._carry_out(run.crew.died(child.number))
        reported, status = self._bury(child)
        if reported is not None and early and reported.usage:  # who comes cannot take part; who is at work can go on
            self._stop_for(reported)
            return
        if reported is not None:
            self._failure = self._failure or reported
            return
        if leaving or run.is_ending(plan) or (not worker and child.told.done):
            return
        self._last_death = Death(child.name, status, hung, self._host.lacked_memory(status))
        self._watcher.message(f"{self._last_death.text}; its work goes on elsewhere.")
        self._last_stack = job_frames(child.told.stacks.decode(errors="replace")) if hung else ""
        if not worker:
            self._replace_loader(child, at, self._last_death.own_fault)
        elif self._last_death.own_fault:
            self._carry_out(run.crew.blame(None if early else at))

    def _profiled(self, child: Child) -> None:
        """The spare process has ended, whatever of."""
        _, status = self._bury(child)
        self._host.lacked_memory(status)  # its death is not the next one's
        advice = self._profiler.advice(*self._run.state.segment["profile"].tolist()) if self._profiler else None
        if advice:
            self._watcher.message(advice)

    def _bury(self, child: Child) -> tuple[Failure | None, int]:
        """Take leave of a dead child; returns what it reported and its exit code."""
        self._hear(child)
        self._outputs.close(child.output)
        for file in (child.pidfd, child.report):
            self._unwatch(file)
        self._hangs.forget(child)
        if child.role == "worker":
            del self._run.members[child.number]
            self._run.leaving.discard(child.number)
        self._run.dumping.pop(child.process, None)
        return child.told.failure, self._children.bury(child)

    def _replace_loader(self, child: Child, at: Work, own_fault: bool) -> None:
        last, strikes = self._loader_strikes.get(child.number, (at, 0))
        if own_fault:
            strikes = strikes + 1 if last == at else 1
            self._loader_strikes[child.number] = at, strikes
            if strikes >= STRIKES:
                self._failure = self._failure or self._given_up(at)
                return
        self._children.want("loader", child.number)

    def _given_up(self, work: Work | None) -> Failure:
        return given_up(self._last_death, work, self._run.described.program, self._last_stack)

    def _end_the_hung(self, plan: Plan, elapsed: float) -> None:
        if plan.stop or self._paused:
            return
        self._hangs.end_workers(self._run, plan, self._job.waits_for_norms, elapsed, self._watcher.message)
        self._hangs.end_loaders(self._run, self._children.living, elapsed, self._watcher.message)

    # -- stopping and resizing -----------------------------------------------------------------------------

    def _come_to_rest(self) -> None:
        """End all workers, whatever fails meanwhile: each of them may be buried once."""
        for _ in range(STRIKES + len(self._run.members)):
            try:
                self._abandon()
                return
            except Exception as error:
                self._watcher.message(f"while the run came to rest: {described_error(error).message}")

    def _abandon(self) -> None:
        """End all workers now; one more finishes a round whose update has begun, unless it fails or dies too often."""
        run = self._run
        self._children.forgo("worker")
        self._end_members()
        self._succession.begin_anew()
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
            self._children.want("worker", last)
            self._await_round(last, plan)
            if self._end_members():  # it has failed, and would again
                return

    def _await_round(self, last: int, plan: Plan) -> None:
        """Until the last worker has finished the round of a plan, or has ended, or cannot be forked."""
        looked = time.monotonic()
        while self._run.records.plan.round == plan.round and self._is_coming(last):
            failure: Failure | None = None
            try:
                for key, _ in self._selector.select(0):
                    self._hear_at_rest(key.fd, key.data)
                self._succession.go_on()
                self._children.go_on()
                now = time.monotonic()
                if now - looked >= LOOK_SECONDS:
                    self._host.look()
                    clipped = self._job.waits_for_norms
                    self._hangs.end_workers(self._run, plan, clipped, now - looked, self._watcher.message)
                    looked = now
            except HostLost as lost:
                failure = self._succession.lost(lost)
            except UnisonoError as error:
                failure = described_error(error)
            if failure is not None:
                self._watcher.message(f"a step whose update has begun could not be finished: {failure.message}")
                self._children.forgo("worker")

    def _is_coming(self, member: int) -> bool:
        """Whether a worker lives, or is still to be forked; waits for a moment."""
        if member in self._run.members:
            return not _is_dead(self._run.members[member], 0.001)
        time.sleep(0.001)
        return self._children.awaits("worker") and not self._succession.is_over

    def _hear_at_rest(self, file: int, what: Any) -> None:
        if what == OUTPUT:
            self._outputs.read(file)
        elif what is self._host:
            self._host.hear()
        elif isinstance(what, Child) and file == what.report:
            self._hear(what)

    def _end_members(self) -> bool:
        """End them; returns whether one of them had failed."""
        for child in list(self._run.members.values()):
            child.kill()
        for child in list(self._run.members.values()):
            while not _is_dead(child, TICK_SECONDS):
                pass
        failures = [self._bury(child)[0] for child in list(self._run.members.values())]
        return any(failures)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "resize" in request:
            return {"workers": self._resize(request["resize"])}
        if request.get("stop"):
            if self._shutdown is None:
                self._go(Shutdown(False, ASKED))
            return {"stopping": True}
        raise UsageError(f"a run can be asked to resize or to stop; received {request}.")

    def _resize(self, wanted: Any) -> int:
        run = self._run
        most, least = run.described.layout.shape.most, run.described.layout.shape.stages
        allowed = (0, *range(least, most + 1))
        if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted not in allowed:
            stages = f", and at least {least}, one a stage" if least > 1 else ""
            raise UsageError(
                f"a run of this job can have 0 (pause) to {most} workers, one a non-empty microbatch{stages}; received "
                f"{wanted!r}."
            )
        if wanted == 0 and self._companions:
            raise UsageError("a run over several hosts is not paused; stop it, and resume it later.")
        if wanted == 0:
            self._paused = True
            run.control.publish(Control.STOP, 1)
        elif self._paused:
            self._resume_with(wanted)
        else:
            self._carry_out(run.crew.resize(wanted))
        return wanted

    def _resume_with(self, wanted: int) -> None:
        """Go on after a pause: the workers that are still leaving go first."""
        run = self._run
        self._abandon()
        run.control.publish(Control.STOP, 0)
        run.crew = Crew(wanted, next_member=run.crew.next_member)
        round_ = run.records.plan.round
        self._man(round_, copy=run.control.get(Control.COPIED) <= round_)
        self._paused = False  # not before: what cannot be manned is paused still


def _is_dead(child: Child, timeout_seconds: float) -> bool:
    return readable(child.pidfd, timeout_seconds)
