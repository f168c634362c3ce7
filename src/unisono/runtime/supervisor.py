"""The supervisor of a run: owns the shared memory, watches the processes, carries out the recovery policy."""

from __future__ import annotations

import itertools
import os
import select
import selectors
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from unisono.errors import JobError, UnisonoError, UsageError
from unisono.frameworks.registry import family_of
from unisono.job import Job
from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.observe.logs import LineLog
from unisono.planner.devices import out_of_memory_kills
from unisono.runtime.control import ControlSocket
from unisono.runtime.failure import MEMORY_WAYS_OUT, STACK_SIGNAL, Failure
from unisono.runtime.host import Child, Host, HostLost
from unisono.runtime.prepare import Described, Request
from unisono.runtime.protocol import Do, Plan, even, next_action, owner, position
from unisono.runtime.records import Records
from unisono.runtime.recovery import STRIKES, Crew, Decision, Fork, GiveUp, Inherit, Retire, Seat, Work
from unisono.runtime.stalls import Stalls
from unisono.runtime.state import MEMBERS, Control, HostState
from unisono.runtime.worker import HostWords

TICK_SECONDS = 0.05
FINISH_SECONDS = 2.0
"""How long an interrupted run may take to finish its round before the round is abandoned."""

STACK_SECONDS = 0.5
CATCH_UP_SECONDS = 5.0
OWN_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}


class Watcher(Protocol):
    """Whoever has a run supervised."""

    def described(self, described: Described) -> None:
        """The job is prepared."""

    def restore(self, described: Described, state: HostState) -> tuple[int, bool]:
        """Put a checkpoint's values into the state; returns the round to begin with, and whether to go on at all."""

    def record(self, record: dict[str, Any]) -> None:
        """A round's merged record."""

    def copy(self, described: Described, state: HostState, rounds: int) -> bool:
        """The state stands still after so many rounds: copy what is wanted. False ends the run here."""

    def log(self, name: str) -> LineLog:
        """Where a process's output goes."""

    def message(self, text: str) -> None:
        """Something that a person should know."""

    def interrupted(self) -> bool:
        """Whether the run is asked to stop."""

    def workers(self, alive: int) -> None:
        """How many workers are alive."""

    def control(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> ControlSocket | None:
        """The run's control socket, if it has a folder."""

    def copy_wanted(self) -> bool:
        """Whether a checkpoint is due by the clock."""


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        described: what was run.
        state: the shared state.
        rounds: rounds done.
        consistent: whether the state is that after those rounds.
        failure: why the run failed, if it did.
    """

    described: Described
    state: HostState
    rounds: int
    consistent: bool
    failure: Failure | None

    @property
    def steps_done(self) -> int:
        """Training steps done."""
        return self.described.program.position(self.rounds)[0]

    @property
    def complete(self) -> bool:
        """Whether every round was done."""
        return self.rounds == self.described.program.rounds


@dataclass
class _Crewed:
    """What the supervisor holds of a running job."""

    described: Described
    state: HostState
    records: Records
    crew: Crew
    words: HostWords
    control: Words
    members: dict[int, Child] = field(default_factory=dict)
    leaving: set[int] = field(default_factory=set)
    dumping: dict[int, float] = field(default_factory=dict)


class Supervisor:
    """Runs a job on this host's processes.

    Args:
        job: the job.
        request: what of it, on what.
        watcher: hears of it.
        stall_seconds: see `Stalls`.
    """

    def __init__(self, job: Job, request: Request, watcher: Watcher, stall_seconds: float | None = None) -> None:
        self._job, self._request, self._watcher = job, request, watcher
        self._logs: dict[int, LineLog] = {}
        self._selector = selectors.DefaultSelector()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stalls = Stalls(stall_seconds)
        self._failure: Failure | None = None
        self._paused = self._stop_wanted = False
        self._memory_kills = out_of_memory_kills()
        self._cause = ""
        self._lost = (-1, 0)
        self._loader_strikes: dict[int, int] = {}
        self._host: Host
        self._run: _Crewed

    def run(self) -> Outcome:
        """Run to the end, to a failure or to a stop."""
        self._selector.register(self._event, selectors.EVENT_READ, "event")
        self._host = Host(self._listen_to_host)
        try:
            return self._begin()
        finally:
            self._host.close()
            self._selector.close()
            os.close(self._event)

    def _listen_to_host(self, file: int | None) -> None:
        """The warm parent's output begins to come, or (None) everything from this host's processes ends."""
        if file is not None:
            self._listen(file, self._watcher.log("host"))
            return
        for file in list(self._logs):
            self._read(file)
            self._logs.pop(file).close()
        for key in list(self._selector.get_map().values()):
            if key.data == "output" or isinstance(key.data, Child):
                self._selector.unregister(key.fd)

    def _start_over(self) -> None:
        """The warm parent died: another one goes on with the same shared memory, from the same words."""
        run = self._run
        plan = run.records.plan
        self._lost = (plan.round, self._lost[1] + 1 if self._lost[0] == plan.round else 1)
        if self._lost[1] >= STRIKES:
            raise HostLost(f"the process that holds the job ended {STRIKES} times in a row in the same round.")
        self._watcher.message("the process that holds the job is gone; another one takes over")
        self._host.close()
        run.members.clear()
        run.dumping.clear()
        run.leaving.clear()
        self._host = Host(self._listen_to_host)
        self._host.prepare(self._job, self._request)
        self._host.share(run.described, run.state.segment.file, self._event, initialise=False)
        self._host.ask("catch_up", plan.round)
        if not self._paused:
            run.crew = Crew(run.crew.wanted, next_member=run.crew.next_member)
            decisions = run.crew.begin()
            old = [owner(member, run.state.heirs.of) for member in plan.members]
            for member, heir in zip(old, itertools.cycle(run.crew.seats)):
                run.state.heirs.name(member, heir)
            self._carry_out(decisions)
        self._fork_loaders()

    def _fork_loaders(self) -> None:
        for index in range(self._run.described.layout.shape.loaders):
            self._watch(self._host.fork("loader", index, index))

    def _begin(self) -> Outcome:
        described = self._host.prepare(self._job, self._request)
        self._watcher.described(described)
        segment = Segment.create(described.layout.segment)
        control: ControlSocket | None = None
        try:
            state = HostState(described.layout, segment)
            self._host.share(described, segment.file, self._event, initialise=True)
            first, go_on = self._watcher.restore(described, state)
            slots = described.layout.shape.slots
            self._run = _Crewed(described, state, Records(state, first), Crew(slots), HostWords(state, 0.0),
                                Words(segment, "control", 0.0))  # fmt: skip
            state.begin(first)
            self._man(first, go_on)
            self._fork_loaders()
            control = self._watcher.control(self._answer)
            if control:
                self._selector.register(control.socket, selectors.EVENT_READ, control)
            self._supervise()
            records = self._run.records
            records.drain(self._hand_on)
            plan = records.plan
            outcome = Outcome(described, state, plan.round, self._at_rest(plan), self._failure)
            self._export(outcome)
            return outcome
        finally:
            if control:
                control.close()
            segment.close()

    def _export(self, outcome: Outcome) -> None:
        """Have the model left in its framework's own file, if the framework has such files."""
        family = family_of(outcome.described.framework)
        wanted = self._request.folder is not None and family.model_file is not None
        if not wanted or outcome.failure is not None or not outcome.consistent:
            return
        try:
            self._host.ask("export", outcome.steps_done)
        except UnisonoError as error:
            self._watcher.message(f"{family.model_file} was not written: {error}")

    def _man(self, first: int, go_on: bool = True) -> None:
        """Fork a crew that begins with this round; nobody is at work yet."""
        run = self._run
        shape = run.described.layout.shape
        decisions = run.crew.begin()
        stop = not go_on or first >= run.described.program.rounds
        run.state.stamp(Plan(first, even(shape.microbatches, run.crew.wanted), run.crew.seats, stop=stop))
        self._carry_out(decisions)

    # -- processes -----------------------------------------------------------------------------------------

    def _listen(self, file: int, log: LineLog) -> None:
        os.set_blocking(file, False)
        self._logs[file] = log
        self._selector.register(file, selectors.EVENT_READ, "output")

    def _watch(self, child: Child) -> None:
        self._listen(child.output, self._watcher.log(child.name))
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)

    def _read(self, file: int) -> None:
        try:
            while data := os.read(file, 1 << 16):
                self._logs[file].feed(data)
        except (BlockingIOError, OSError):
            return
        if file in self._selector.get_map():
            self._selector.unregister(file)

    def _carry_out(self, decisions: list[Decision]) -> None:
        """Heirs first: survivors take over before a replacement is forked."""
        run = self._run
        for decision in sorted(decisions, key=lambda decision: isinstance(decision, Fork)):
            if isinstance(decision, Fork):
                run.state.heirs.name(decision.member, None)
                self._fork(decision.member)
            elif isinstance(decision, Inherit):
                run.state.heirs.name(decision.dead, decision.heir)
                run.control.publish(Control.DEATHS, run.control.get(Control.DEATHS) + 1)
                self._wake_everybody()
            elif isinstance(decision, Seat):
                run.state.seat(decision.members)
            elif isinstance(decision, Retire):
                run.leaving.add(decision.member)
            elif self._failure is None:
                self._failure = self._given_up(decision)
        self._watcher.workers(len(run.crew.present))

    def _fork(self, member: int) -> None:
        run = self._run
        taken = {child.place for child in run.members.values()}
        place = next(place for place in range(len(taken) + 1) if place not in taken)
        child = self._host.fork("worker", member, place)
        run.members[member] = child
        self._watch(child)
        threads, cores = self._request.threads, self._request.cores
        with suppress(ProcessLookupError):
            if run.crew.wanted * threads <= len(cores) and (place + 1) * threads <= len(cores):
                os.sched_setaffinity(child.process, cores[place * threads : (place + 1) * threads])

    def _wake_everybody(self) -> None:
        words = self._run.words
        for slot in range(self._run.described.layout.shape.most):
            for kind in (words.summed, words.normed, words.committed):
                kind.wake(slot)
        self._run.control.wake(Control.COPIED)

    # -- the loop ------------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        """Until every round is done, the run has failed, or it was stopped."""
        run = self._run
        rounds = run.described.program.rounds
        asked_to_stop: float | None = None
        looked = caught_up = time.monotonic()
        while True:
            try:
                for key, _ in self._selector.select(TICK_SECONDS):
                    self._handle(key.fd, key.data)
                if time.monotonic() - caught_up >= CATCH_UP_SECONDS:
                    caught_up = time.monotonic()
                    self._host.ask("catch_up", run.records.plan.round)
            except HostLost:
                self._start_over()
            plan = run.records.plan
            if self._failure is None:
                self._look_for_newcomers()
                self._copy_if_due(plan)
                self._drain(plan)
            now = time.monotonic()
            if self._failure is not None:
                self._abandon()
                return
            if not run.members and not (self._paused and not self._stop_wanted and plan.round < rounds):
                return
            if now - looked >= TICK_SECONDS:
                self._look_for_stalls(plan, now, now - looked)
                self._let_go(plan)
                looked = now
            self._stop_wanted = self._stop_wanted or self._watcher.interrupted()
            if asked_to_stop is None and self._stop_wanted:
                self._watcher.message("stopping after the step at hand; another interrupt ends at once")
                run.control.publish(Control.STOP, 1)
                asked_to_stop = now
            elif asked_to_stop is not None and now - asked_to_stop > FINISH_SECONDS:
                self._abandon()
                return

    def _drain(self, plan: Plan) -> None:
        self._run.records.drain(self._hand_on)
        if self._watcher.copy_wanted():
            self._run.control.publish(Control.ASKED, plan.asked + 1)

    def _hand_on(self, record: dict[str, Any]) -> None:
        """Hand on a record; where the job's observer fails, the run does."""
        try:
            self._watcher.record(record)
        except JobError as error:
            self._failure = self._failure or Failure(error.message, error.traceback)

    def _handle(self, file: int, what: Any) -> None:
        if what == "event":
            with suppress(BlockingIOError):
                os.eventfd_read(self._event)
        elif what == "output" and file in self._logs:
            self._read(file)
        elif isinstance(what, ControlSocket):
            what.serve()
        elif what in self._host.children:
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
        owners = {owner(member, run.state.heirs.of) for member in plan.members}
        for member in list(run.leaving):
            if member not in owners and member in run.members:
                run.members[member].kill()
                run.leaving.discard(member)

    # -- deaths --------------------------------------------------------------------------------------------

    def _ended(self, child: Child) -> None:
        """A child has ended: let others go on at once, then see why."""
        run = self._run
        plan = run.records.plan
        self._look_for_newcomers()  # it may have joined, worked and died between two looks
        at = self._was_at(child, plan)
        worker = child.role == "worker"
        hung = worker and child.number in run.dumping
        leaving = worker and child.number in run.crew.retiring
        early = worker and child.number in run.crew.coming
        if worker and self._ending(plan):
            run.crew.left(child.number)
        elif worker:
            self._carry_out(run.crew.died(child.number))
        before, self._memory_kills = self._memory_kills, out_of_memory_kills()
        reported, status = self._bury(child)
        if reported is not None:
            self._failure = self._failure or reported
            return
        if leaving or self._ending(plan) or (not worker and status == 0):
            return
        memory = status == -signal.SIGKILL and self._memory_kills > before
        self._cause = self._described_death(child, status, hung, memory)
        self._watcher.message(f"{self._cause}; its work goes on elsewhere.")
        own_fault = hung or memory or status >= 0 or -status in OWN_FAULTS
        if not worker:
            self._replace_loader(child, at, own_fault)
        elif own_fault:
            self._carry_out(run.crew.blame(None if early else at))

    def _ending(self, plan: Plan) -> bool:
        """Whether workers end because the run does."""
        return plan.stop or self._run.control.get(Control.END) > plan.round

    def _bury(self, child: Child) -> tuple[Failure | None, int]:
        """Take leave of a dead child; returns what it reported and its exit code."""
        self._read(child.output)
        reported = child.failure()
        for file in (child.output, child.pidfd):
            if file in self._selector.get_map():
                self._selector.unregister(file)
        self._logs.pop(child.output).close()
        self._stalls.forget((child.role, child.number))
        if child.role == "worker":
            del self._run.members[child.number]
            self._run.dumping.pop(child.number, None)
            self._run.leaving.discard(child.number)
        return reported, self._host.reap(child)

    def _was_at(self, child: Child, plan: Plan) -> Work:
        """The microbatch of a slot of its own that it was computing, or the rest of the round."""
        run = self._run
        if child.role == "worker":
            for slot, member in enumerate(plan.members):
                word = int(run.state.segment["computing"][slot, 0])
                if owner(member, run.state.heirs.of) == child.number and word >> 32 == plan.round and word & 0xFFFFFFFF:
                    return Work(plan.round, (word & 0xFFFFFFFF) - 1)
            return Work(plan.round, -1)
        word = int(run.state.segment["reading"][child.number, 0])
        return Work(word >> 32, (word & 0xFFFFFFFF) - 1)

    def _described_death(self, child: Child, status: int, hung: bool, memory: bool) -> str:
        if hung:
            return f"{child.name} made no progress and was ended (its stack is in logs/)"
        if memory:
            return f"{child.name} was killed because memory ran out"
        if status < 0:
            return f"{child.name} was ended by {signal.Signals(-status).name}"
        return f"{child.name} ended itself with status {status}"

    def _replace_loader(self, child: Child, at: Work, own_fault: bool) -> None:
        strikes = self._loader_strikes
        strikes[child.number] = strikes.get(child.number, 0) + 1 if own_fault else 0
        if strikes[child.number] >= STRIKES:
            self._failure = self._given_up(GiveUp(at))
            return
        self._watch(self._host.fork("loader", child.number, child.place))

    def _given_up(self, decision: GiveUp) -> Failure:
        where = "before it could work"
        if decision.work is not None:
            program = self._run.described.program
            round_ = program.at(min(decision.work.round, program.rounds - 1))
            where = f"step {round_.step + 1}" if round_.evaluation is None else f"evaluation after step {round_.step}"
            if decision.work.microbatch >= 0:
                where += f", microbatch {decision.work.microbatch}"
        ways = f" {MEMORY_WAYS_OUT}" if "memory" in self._cause else ""
        return Failure(f"{self._cause}, {STRIKES} times in a row at the same place ({where}); see logs/.{ways}")

    # -- hanging -------------------------------------------------------------------------------------------

    def _look_for_stalls(self, plan: Plan, now: float, elapsed: float) -> None:
        run = self._run
        if plan.stop or self._paused:
            return
        round_ = run.described.program.at(plan.round)
        for member, child in list(run.members.items()):
            if member in run.dumping:
                if now >= run.dumping[member]:
                    child.kill()
                continue
            kind, mark = self._standing(plan, member)
            if round_.evaluation is not None:
                kind = f"evaluation {kind}"
            if not kind or kind == "evaluation ":
                self._stalls.forget((child.role, child.number))
            elif self._stalls.look((child.role, child.number), kind, mark, elapsed):
                self._watcher.message(f"{child.name} makes no progress; its Python stack goes to logs/.")
                child.kill(STACK_SIGNAL)
                run.dumping[member] = now + STACK_SECONDS
        for child in self._host.children:
            if child.role == "loader":
                word = int(run.state.segment["reading"][child.number, 0])
                if word and self._stalls.look((child.role, child.number), "reading", word, elapsed):
                    child.kill(STACK_SIGNAL)
                    child.kill()

    def _standing(self, plan: Plan, member: int) -> tuple[str, Any]:
        """(what a member is at, what changes as it goes on); "" when it waits for others."""
        run = self._run
        clipped = self._job.clip_norm is not None
        chunks = run.described.layout.slices(plan.slots)
        training = run.described.program.at(plan.round).evaluation is None
        copied = run.control.get(Control.COPIED)
        marks: list[Any] = []
        kind = ""
        for slot in range(plan.slots):
            if owner(plan.members[slot], run.state.heirs.of) != member:
                continue
            count = len(chunks[slot]) if training else 0
            action = next_action(plan, slot, run.words, count, clipped and training, copied)
            at = int(run.state.segment["computing"][slot, 0])
            marks.append((plan.round, at, run.words[slot]))
            if action.do is Do.COMPUTE and self._awaits_loader(plan, at):
                continue
            if action.do not in (Do.AWAIT_COPY, Do.AWAIT_NORMS, Do.AWAIT_SUMS, Do.DONE):
                kind = action.do.name.lower()
        return kind, tuple(marks)

    def _awaits_loader(self, plan: Plan, at: int) -> bool:
        microbatch = (at & 0xFFFFFFFF) - 1
        if at >> 32 != plan.round or microbatch < 0:
            return False
        number = plan.round * self._run.described.layout.shape.microbatches + microbatch
        entry = number % self._run.described.layout.ring
        return int(self._run.state.segment["ready"][entry, 0]) < number + 1

    # -- stopping and resizing -----------------------------------------------------------------------------

    def _abandon(self) -> None:
        """End all workers now; one more finishes a round whose update has begun, unless it fails or dies too often."""
        run = self._run
        self._end_members()
        for _ in range(STRIKES):
            plan = run.records.plan
            if self._at_rest(plan):
                return
            run.control.publish(Control.STOP, 1)
            run.control.publish(Control.COPIED, plan.round + 1)
            last = run.crew.newcomer()
            run.state.heirs.name(last, None)
            for member in {owner(member, run.state.heirs.of) for member in plan.members}:
                run.state.heirs.name(member, last)
            self._fork(last)
            while not _is_dead(run.members[last], 0.001) and run.records.plan.round == plan.round:
                pass
            self._end_members()

    def _end_members(self) -> None:
        for child in list(self._run.members.values()):
            child.kill()
        for child in list(self._run.members.values()):
            while not _is_dead(child, TICK_SECONDS):
                pass
            self._bury(child)

    def _at_rest(self, plan: Plan) -> bool:
        """Whether no slot has begun to update in the plan's round."""
        return all(position(self._run.words[slot].progress, plan.round) == 0 for slot in range(plan.slots))

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "resize" in request:
            return {"workers": self._resize(request["resize"])}
        if request.get("stop"):
            self._stop_wanted = True
            return {"stopping": True}
        raise UsageError(f"a run can be asked to resize or to stop; received {request}.")

    def _resize(self, wanted: Any) -> int:
        run = self._run
        most = run.described.layout.shape.most
        if not isinstance(wanted, int) or isinstance(wanted, bool) or not 0 <= wanted <= most:
            raise UsageError(
                f"a run of this job can have 0 (pause) to {most} workers, one a non-empty microbatch; received "
                f"{wanted!r}."
            )
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
        self._paused = False
        self._man(run.records.plan.round)


def _is_dead(child: Child, timeout_seconds: float) -> bool:
    return bool(select.select([child.pidfd], [], [], timeout_seconds)[0])


def raise_failure(outcome: Outcome) -> None:
    """Raise what made the run fail.

    Raises:
        JobError: it failed.
    """
    if outcome.failure is not None:
        raise JobError(outcome.failure.message, outcome.failure.traceback)
