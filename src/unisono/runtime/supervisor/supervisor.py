"""The supervisor of a run: owns the shared memory, has the job prepared and its rounds run, and says how that ended."""

from __future__ import annotations

import os
import selectors
from dataclasses import replace
from functools import partial
from typing import Any

from unisono.errors import Interrupted, UnisonoError
from unisono.errors.failure import Failure, described_error
from unisono.frameworks.registry import family_of
from unisono.memory.segment import Segment
from unisono.runtime.preparation.outline import JobFacts
from unisono.runtime.processes.profiler import Profiler
from unisono.runtime.rules.request import Request
from unisono.runtime.state.host_state import HostState
from unisono.runtime.supervisor.ending import Ending
from unisono.runtime.supervisor.event_loop import EventLoop
from unisono.runtime.supervisor.other_hosts import Companions
from unisono.runtime.supervisor.outcome import Outcome
from unisono.runtime.supervisor.outputs import Outputs
from unisono.runtime.supervisor.running import Running
from unisono.runtime.supervisor.site import Site
from unisono.runtime.supervisor.warm_parent_client import WarmParent
from unisono.runtime.supervisor.watcher import Listener, Watcher


class Supervisor:
    """Runs a job on this host's processes.

    Args:
        job: what is known of it here.
        host: its warm parent, which this closes at the end.
        request: what of the job, on what.
        watcher: hears of it.
        companions: the way to the other hosts; None = this one is alone.
    """

    def __init__(
        self, job: JobFacts, host: WarmParent, request: Request, watcher: Watcher,
        companions: Companions | None = None,
    ) -> None:  # fmt: skip
        outputs, ending = Outputs(selectors.DefaultSelector()), Ending(watcher.interrupted, companions)
        self._site = Site(job, request, host, outputs, watcher, watcher, watcher, ending, companions)
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop: EventLoop | None = None

    def run(self) -> Outcome:
        """Run to the end, to a failure or to a stop."""
        site, ending = self._site, self._site.ending
        selector, others = site.outputs.selector, site.others
        selector.register(self._event, selectors.EVENT_READ, "event")
        if others:
            others.open(selector, lambda: os.eventfd_write(self._event, 1), site.listener)
        failed: Failure | None = Failure("its supervisor was ended")
        try:
            outcome = self._run()
            failed, ending.shutdown = outcome.failure, outcome.shutdown
            return outcome
        except Interrupted as interrupted:
            failed, interrupted.shutdown = None, ending.shutdown
            raise
        except Exception as error:
            failed = described_error(error)
            raise
        finally:
            if others:
                others.close(failed, ending.shutdown)
            site.outputs.close_all()
            if self._loop:
                self._loop.close()
            site.host.close()
            selector.close()
            os.close(self._event)

    def _run(self) -> Outcome:
        site, ending = self._site, self._site.ending
        host, listener = site.host, site.listener
        host.answers.say, host.answers.interrupted = listener.message, ending.is_due
        host.attach(site.outputs, partial(listener.log, "host"))
        described = host.prepare(site.request, meanwhile=site.caller.preparing)
        site.caller.described(described)
        segment = Segment.create(described.layout.segment)
        try:
            state = HostState(described.layout, segment)
            described = replace(described, probe=host.share(described, segment.file, self._event))
            first, go_on = site.keeper.restore(described, state)
            run, profiler = Running(described, state, listener.record), None
            if not site.others and described.cut is None and not site.request.trace and not run.board:
                profiler = Profiler.of(described)
                run.hand_on = partial(_profiled, profiler, listener)
            self._loop = EventLoop(run, site, self._event, profiler)
            self._loop.supervise(first, go_on)
            run.drain()
            plan, failure = run.records.plan, ending.failure
            values, rounds = run.result()
            shutdown = None if failure or run.is_done(plan) else ending.shutdown
            outcome = Outcome(described, values, rounds, run.is_at_rest(plan), failure, segment.release, shutdown)
            self._export(outcome)
            return outcome
        except BaseException:
            segment.release()
            raise
        finally:
            segment.close()

    def _export(self, outcome: Outcome) -> None:
        """Have the model left in its framework's own file, if the framework has such files."""
        family = family_of(outcome.described.framework)
        wanted = self._site.request.folder is not None and family.model_file is not None and not outcome.left
        if not wanted or outcome.failure is not None or not outcome.consistent:
            return
        try:
            self._site.host.ask("export", outcome.steps_done)
        except UnisonoError as error:
            self._site.listener.message(f"{family.model_file} was not written: {error}")


def _profiled(profiler: Profiler, listener: Listener, record: dict[str, Any]) -> None:
    profiler.record(record)
    listener.record(record)
