"""Carries out what the recovery policy decides, and tells it which workers have come and died."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from unisono.errors.traces import job_frames
from unisono.machine.cores import Claims
from unisono.machine.gpu_shares import what_would_fit
from unisono.runtime.processes.child import Child
from unisono.runtime.processes.deaths import Death, given_up
from unisono.runtime.rules.crew import STRIKES, Decision, Fork, Inherit, Seat, Work
from unisono.runtime.rules.plan import Plan
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_shares import HostShares
from unisono.runtime.state.layout import MEMBERS
from unisono.runtime.supervisor.answers import readable
from unisono.runtime.supervisor.children import Children
from unisono.runtime.supervisor.hangs import Hangs
from unisono.runtime.supervisor.running import Running
from unisono.runtime.supervisor.site import Site

TICK_SECONDS = 0.05


@dataclass
class CrewControl:
    """The workers and loaders of a running job.

    Args:
        run: the job.
        site: this host.
        hangs: knows who hangs.

    Attributes:
        children: the processes.
    """

    run: Running
    site: Site
    hangs: Hangs

    def __post_init__(self) -> None:
        self._ending = self.site.ending
        self._claims = Claims(self.site.request.cores, self.site.request.cores_per_worker)
        self.children = Children(self.site, self._begun)
        self._loader_strikes: dict[int, tuple[Work | None, int]] = {}

    def begin(self, first: int, go_on: bool = True, copy: bool = False) -> None:
        """Fork a crew that begins with this round, or (copy) with a look at the state; nobody is at work yet."""
        run = self.run
        decisions = run.crew.begin()
        stop = not go_on or run.rounds.next(first) is None or self._ending.failure is not None
        run.state.plans.stamp(run.described.opening(first, run.crew.seats, stop, HostShares(run.state), copy))
        self._carry_out(decisions)

    def _begun(self, child: Child) -> None:
        if child.role != "worker":
            return
        self.run.members[child.number] = child
        request = self.site.request
        enough = self.run.crew.wanted * request.cores_per_worker <= len(request.cores)
        if enough and (held := self._claims.of(child.place)):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(child.process, held)

    def resize(self, wanted: int) -> None:
        """Another number of workers is wanted, at least 1."""
        self._carry_out(self.run.crew.resize(wanted))

    def _carry_out(self, decisions: list[Decision]) -> None:
        run = self.run
        for decision in decisions:
            if isinstance(decision, Fork):
                run.state.heirs.name(decision.member, None)
                if run.board:
                    run.board.forget(decision.member)
                self.children.want("worker", decision.member)
            elif isinstance(decision, Inherit) and not run.board:  # a replica dies with its process
                run.state.heirs.name(decision.dead, decision.heir)
                run.control.publish(Control.DEATHS, run.control.get(Control.DEATHS) + 1)
                run.wake_everybody()
            elif isinstance(decision, Seat):
                run.state.plans.seat(decision.members)
        shares = HostShares(run.state)
        elsewhere = sum(shares.workers) - shares.workers[shares.host] if shares.several else 0
        self.site.listener.workers(len(run.crew.present) + elsewhere, max(len(shares.workers), 1))

    def seat_newcomers(self) -> None:
        """Seat those that can work now."""
        joined = self.run.state.segment["joined"]
        for member in sorted(self.run.crew.coming):
            if joined[member % MEMBERS] == member + 1:
                self._carry_out(self.run.crew.joined(member))

    def end_retired(self, plan: Plan) -> None:
        """End the members that no plan gives a slot any more."""
        run = self.run
        for member in run.crew.retiring & run.members.keys():
            if member not in run.owners(plan):
                run.members[member].kill()

    def ended(self, child: Child) -> None:
        """A worker or loader has ended: let others go on at once, then see why."""
        run = self.run
        plan = run.records.plan
        self.seat_newcomers()  # it may have joined, worked and died between two looks
        at, ends, hung = run.work_of(child, plan), run.is_ending(plan), self.hangs.hung(child)
        worker = child.role == "worker"
        retires = worker and child.number in run.crew.retiring
        early = worker and child.number in run.crew.coming
        if worker and ends:
            run.crew.left(child.number)
        elif worker:
            self._carry_out(run.crew.died(child.number))
        status = self._bury(child)
        failure = child.told.failure
        if failure is not None and early and failure.usage:  # who comes cannot take part; who is at work can go on
            self._ending.stop_for(failure)
        elif failure is not None and not failure.device:
            self._ending.fail(failure)
        elif not (retires or ends or (not worker and child.told.done)):
            said, ways = failure.message if failure else "", ""
            if failure is not None and failure.device == "memory":
                ways = self._what_would_fit()
            death = Death(child.name, status, hung, self.site.host.lacked_memory(status), said, ways)
            self.site.listener.message(f"{death.text}; its work goes on elsewhere.")
            stack = job_frames(child.told.stacks.decode(errors="replace")) if hung else ""
            self._replace(child, death, None if early else at, stack)

    def _what_would_fit(self) -> str:
        gpus, batches = max(1, len(self.site.request.gpus)), self.run.described.program.batches
        return what_would_fit(self.run.crew.wanted, gpus, batches.microbatches, batches.microbatch_size)

    def _replace(self, child: Child, death: Death, work: Work | None, stack: str) -> None:
        """Blame what it worked on, where that is to blame; the policy has forked another worker already."""
        if self._is_poison(child, death, work):
            self._ending.fail(given_up(death, work, self.run.rounds, stack))
        elif child.role == "loader":
            self.run.loader_begins(child.number)
            self.children.want("loader", child.number)

    def _is_poison(self, child: Child, death: Death, work: Work | None) -> bool:
        if not death.own_fault:
            return False
        if child.role == "worker":
            return self.run.crew.blame(work)
        last, strikes = self._loader_strikes.get(child.number, (work, 0))
        strikes = strikes + 1 if last == work else 1
        self._loader_strikes[child.number] = work, strikes
        return strikes >= STRIKES

    def _bury(self, child: Child) -> int:
        """Take leave of one that has ended; returns its exit code."""
        self.hangs.forget(child)
        if child.role == "worker":
            del self.run.members[child.number]
        return self.children.bury(child)

    def end_workers(self) -> bool:
        """End them all now; returns whether one of them had failed."""
        workers = list(self.run.members.values())
        for worker in workers:
            worker.kill()
        for worker in workers:
            while not is_dead(worker, TICK_SECONDS):
                pass
            self._bury(worker)
        return any(worker.told.failure for worker in workers)

    def close(self) -> None:
        """End all children, and give the cores back."""
        self.children.close()
        self._claims.close()


def is_dead(child: Child, seconds: float) -> bool:
    """Whether a child has ended, or ends in time."""
    return readable(child.pidfd, seconds)
