"""One execution of a job: supervised processes, or everything in this one (debug)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from unisono.errors import JobError
from unisono.errors.exits import exit_told
from unisono.errors.traces import user_traceback
from unisono.frameworks.registry import left_as_they_are
from unisono.job import Job
from unisono.runs.debug import run_here
from unisono.runs.jobfile import JobFile, checked
from unisono.runtime.preparation.code_files import CodeFile, code_files
from unisono.runtime.preparation.outline import JobFacts
from unisono.runtime.processes.source import Pickled
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.other_hosts import Companions
from unisono.runtime.supervisor.outcome import Outcome
from unisono.runtime.supervisor.supervisor import Supervisor
from unisono.runtime.supervisor.warm_parent_client import WarmParent
from unisono.runtime.supervisor.watcher import Watcher


@dataclass(frozen=True)
class Execution:
    """A job, and the way its rounds are run: in this process, for debugging.

    Attributes:
        job: what is known of it here; where this process runs it, the job itself.
        arguments: what made it, for run.json.
        code: the files of the process that made it, where that is none that computes.
        since: when it was begun to make it, on the monotonic clock.
    """

    job: JobFacts
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
        with left_as_they_are():
            try:
                return run_here(checked(self.job), request, watcher)
            except SystemExit as leaving:
                raise JobError(exit_told(leaving), user_traceback(leaving)) from leaving


@dataclass(frozen=True, kw_only=True)
class Supervised(Execution):
    """By processes of this host.

    Attributes:
        host: its warm parent, which has been told of the job: closed by a call.
    """

    host: WarmParent

    def __call__(self, request: Request, watcher: Watcher, companions: Companions | None = None) -> Outcome:
        """See `Execution`."""
        return Supervisor(self.job, self.host, request, watcher, companions).run()

    @contextmanager
    def copied(self) -> Iterator[Supervised]:
        """The same by a copy of the warm parent, so that this one can be called again."""
        with self.host.copied() as host:
            yield replace(self, host=host)


@contextmanager
def supervised(
    job: Job, host: WarmParent | None = None, say: Callable[[str], None] = lambda text: None
) -> Iterator[Supervised]:  # fmt: skip
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
        yield Supervised(job, code=code_files(), since=own.started, host=own)


@contextmanager
def held(
    job: Job | JobFile, host: WarmParent | None = None, say: Callable[[str], None] = lambda text: None
) -> Iterator[Supervised]:  # fmt: skip
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
        yield Supervised(outline, outline.arguments, since=own.started, host=own)


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
