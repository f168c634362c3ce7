"""One execution of a job: by supervised processes, or all in this one, for debugging: one member and no loader."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from unisono.errors import JobError
from unisono.errors.exits import exit_told
from unisono.errors.failure import Failure, WorkerFailed
from unisono.errors.traces import user_traceback
from unisono.frameworks.registry import left_as_they_are
from unisono.job import Job
from unisono.memory.segment import Segment
from unisono.runs.jobfile import JobFile, checked
from unisono.runtime.preparation.code_files import CodeFile, code_files
from unisono.runtime.preparation.outline import JobFacts
from unisono.runtime.preparation.prepare import prepare
from unisono.runtime.preparation.prepared import Prepared
from unisono.runtime.processes.source import Pickled
from unisono.runtime.rules.plan import Plan, position
from unisono.runtime.rules.request import Request
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.records import Records
from unisono.runtime.supervisor.other_hosts import Companions
from unisono.runtime.supervisor.outcome import Outcome
from unisono.runtime.supervisor.supervisor import Supervisor
from unisono.runtime.supervisor.warm_parent_client import WarmParent
from unisono.runtime.supervisor.watcher import Watcher


@dataclass(frozen=True)
class Execution:
    """A job, and the way its rounds are run.

    Attributes:
        job: what is known of it here; where this process runs it, the job itself.
        host: the warm parent of the processes that run it, which has been told of it: closed by a call; None = it is
            run in this process.
        arguments: what made it, for run.json.
        code: the files of the process that made it, where that is none that computes.
        since: when it was begun to make it, on the monotonic clock.
    """

    job: JobFacts
    host: WarmParent | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, CodeFile] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)

    def __call__(self, request: Request, watcher: Watcher, companions: Companions | None = None) -> Outcome:
        """Run the rounds. In this process nothing stalls, and no host takes part.

        Args:
            request: what of the job, on what.
            watcher: hears of it.
            companions: the way to other hosts that take part.
        """
        if self.host is not None:
            return Supervisor(self.job, self.host, request, watcher, companions).run()
        with left_as_they_are():
            try:
                return _run_here(checked(self.job), request, watcher)
            except SystemExit as leaving:
                raise JobError(exit_told(leaving), user_traceback(leaving)) from leaving

    @contextmanager
    def copied(self) -> Iterator[Execution]:
        """The same by a copy of the warm parent, so that this one can be called again."""
        assert self.host is not None
        with self.host.copied() as host:
            yield replace(self, host=host)


def _run_here(job: Job, request: Request, watcher: Watcher) -> Outcome:
    """Run a job's rounds; breakpoints and profilers see ordinary Python."""
    with watcher.obeyed():
        prepared = prepare(job, request)
    watcher.described(prepared.described)
    segment = Segment.create(prepared.layout.segment)
    state = HostState(prepared.layout, segment)
    prepared.initialise(state)
    prepared.bind(state)
    first, go_on = watcher.restore(prepared.described, state)
    state.begin(first)
    members = (0,) * prepared.layout.shape.slots  # one process owns the stages of a pipe too
    state.plans.seat(members)
    stop = not go_on or first >= prepared.program.rounds
    state.plans.stamp(prepared.described.opening(first, members, stop))
    records = Records(state, first)
    reader, ring = prepared.reader(), prepared.ring(segment)

    def take(round_: Round, microbatch: int) -> Any:
        """By way of the ring, so that inputs are laid out in memory as a worker sees them."""
        ring.put(round_, microbatch, reader.read(round_, microbatch))
        return ring.get(round_, microbatch)

    def between() -> None:
        plan = records.plan
        records.drain(watcher.record)
        if plan.copy:
            go_on = watcher.copy(prepared.described, state, plan.round)
            state.control.publish(Control.COPIED if go_on else Control.END, plan.round + 1)
        if watcher.copy_wanted():
            state.control.publish(Control.ASKED, plan.asked + 1)
        if watcher.interrupted():
            state.control.publish(Control.STOP, 1)

    failure: Failure | None = None
    try:
        prepared.worker(0, state, lambda: None, take).run(between)
        records.drain(watcher.record)
        _export(prepared, state, records.plan, watcher)
    except WorkerFailed as error:
        failure = error.description
    except SystemExit as leaving:
        failure = Failure(exit_told(leaving), user_traceback(leaving))
    finally:
        segment.close()
    at_rest = all(position(int(word), records.plan.round) == 0 for word in segment["progress"][:, 0])
    # The memory stays: a model of the caller's lies in it.
    return Outcome(prepared.described, state, records.plan.round, at_rest, failure)


def _export(prepared: Prepared, state: HostState, plan: Plan, watcher: Watcher) -> None:
    try:
        prepared.export(state, prepared.program.position(plan.round)[0])
    except Exception as error:  # whatever the job's layers raise; the parameters are saved all the same
        watcher.message(f"{prepared.framework.family.model_file} was not written: {error}")


@contextmanager
def supervised(
    job: Job, host: WarmParent | None = None, say: Callable[[str], None] = lambda text: None
) -> Iterator[Execution]:  # fmt: skip
    """A job of this process, to be run by processes of this host.

    Args:
        job: the job.
        host: processes that have no job yet, closed in the end; None = they are started.
        say: hears what a large job takes that is copied to them.

    Raises:
        UsageError: something in it cannot be pickled, or memory does not suffice.
    """
    with host or WarmParent() as own, closing(Pickled.of(job, say)) as source:
        own.answers.say = say
        own.begin(source)
        yield Execution(job, own, code=code_files(), since=own.started)


@contextmanager
def held(
    job: Job | JobFile, host: WarmParent | None = None, say: Callable[[str], None] = lambda text: None
) -> Iterator[Execution]:  # fmt: skip
    """A job, held by the process that will fork this host's workers: a file's is read there, and only there.

    Args:
        job: the job, or its file.
        host: processes that have no job yet, or begun to read this file; closed in the end. None = they are started.
        say: see `supervised`.

    Raises:
        UsageError, JobError: there is none, or it does not travel.
    """
    if not isinstance(job, JobFile):
        with supervised(checked(job), host, say) as execution:
            yield execution
        return
    with host or WarmParent() as own:
        own.answers.say = say
        if own.source is not job:
            own.begin(job)
        outline = own.outline()
        assert outline is not None
        yield Execution(outline, own, outline.arguments, since=own.started)


def execute(
    job: Job, request: Request, watcher: Watcher, debug: bool = False, host: WarmParent | None = None
) -> Outcome:  # fmt: skip
    """Run a job's rounds once, without a run folder: for tests and benchmarks.

    Args:
        job: the job.
        request, watcher: see `Execution`.
        debug: everything in this process.
        host: see `supervised`.
    """
    if debug:
        return Execution(job)(request, watcher)
    with supervised(job, host) as execution:
        return execution(request, watcher)
