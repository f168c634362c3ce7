"""One execution of a job: supervised processes, or everything in this one (debug)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from unisono.errors import Interrupted, JobError, UsageError
from unisono.errors.exits import exit_told
from unisono.errors.traces import user_traceback
from unisono.frameworks.registry import left_as_they_are
from unisono.job import Job
from unisono.observe.logs import LineLog
from unisono.observe.outlet import told_of_waiting
from unisono.observe.progress import Display
from unisono.runs.debug import run_here
from unisono.runs.jobfile import JobFile
from unisono.runtime.preparation.code_files import CodeFile, code_files
from unisono.runtime.preparation.outline import JobFacts
from unisono.runtime.preparation.prepare import Described, Request
from unisono.runtime.processes.signals import handled
from unisono.runtime.processes.source import Pickled
from unisono.runtime.processes.stacks import place_of
from unisono.runtime.rules.shutdown import OUT_OF_TIME, Shutdown
from unisono.runtime.state.host_state import HostState
from unisono.runtime.supervisor.control_socket import ControlSocket
from unisono.runtime.supervisor.other_hosts import Companions
from unisono.runtime.supervisor.outcome import Outcome
from unisono.runtime.supervisor.supervisor import Supervisor
from unisono.runtime.supervisor.warm_parent_client import WarmParent
from unisono.runtime.supervisor.watcher import Watcher
from unisono.values.text import printable


class Interrupts:
    """Remembers the first of `SIGNALS`; a second SIGINT or SIGTERM ends the process at once.

    Args:
        seconds: time after which the run is asked to stop as if by SIGTERM, or None.
        at_once: called with the second signal's number, before the process ends.
        leaves: whether one of several hosts leaves alone, where a system sends the signal; Ctrl-C ends the run.
        since: when the time began, on the monotonic clock; None = now.
    """

    def __init__(
        self, seconds: float | None = None, at_once: Callable[[int], None] = lambda number: None, leaves: bool = False,
        since: float | None = None,
    ) -> None:  # fmt: skip
        self.received: int | None = None
        self._at_once, self._leaves, self._raises = at_once, leaves, False
        self._end = None if seconds is None else (time.monotonic() if since is None else since) + seconds
        self._out_of_time = False

    def __call__(self) -> Shutdown | None:
        """Why the run is asked to stop, if it is."""
        if self.received is None and self._end is not None and time.monotonic() >= self._end:
            self._out_of_time, self.received = True, signal.SIGTERM
        if self.received is None:
            return None
        if self._out_of_time:
            return Shutdown(False, OUT_OF_TIME)
        return Shutdown(self._leaves and self.received != signal.SIGINT, self.received)

    def _handle(self, number: int) -> None:
        if self.received is None:
            self.received = number
            if self._raises:
                raise KeyboardInterrupt
        elif number in (signal.SIGINT, signal.SIGTERM):  # a closing terminal sends SIGHUP twice: by its shell as well
            self._at_once(number)
            os._exit(128 + number)

    def handled(self) -> AbstractContextManager[None]:
        """Handle signals in a block (see `signals.handled`)."""
        return handled(self._handle)

    @contextmanager
    def obeyed(self) -> Iterator[None]:
        """For a block that runs code of the job's in this thread, which may hang: the first signal ends it.

        Raises:
            Interrupted: it came.
        """
        self._raises = True
        try:
            if self.received is not None:
                raise Interrupted
            yield
        except KeyboardInterrupt:
            if self.received is None:
                raise
            raise Interrupted from None
        finally:
            self._raises = False


@dataclass
class Observation:
    """A watcher that keeps the records and shows progress; runs with a folder do more.

    Attributes:
        job: what is known of the job.
        display: where progress is shown.
        interrupted: why the run is asked to stop, if it is.
        parameters: name → array to begin with instead of the model's own, or None.
        records: what came.
    """

    job: JobFacts
    display: Display
    interrupted: Callable[[], Shutdown | None] = lambda: None
    parameters: dict[str, Any] | None = None
    records: list[dict[str, Any]] = field(default_factory=list)

    def preparing(self) -> None:
        """See `Watcher`."""

    def load_observers(self) -> None:
        """Have the job's observers now, before the run depends on this thread: a job file is read once more."""
        own = threading.get_ident()

        def tell(seconds: float) -> None:
            place = place_of(own)
            self.message(f"still reading the job's observers, {seconds:.0f} s{': ' if place else ''}{place}")

        with self.obeyed(), told_of_waiting(tell):
            _ = self.job.observers

    def described(self, described: Described) -> None:
        """See `Watcher`."""

    def restore(self, described: Described, state: HostState) -> tuple[int, bool]:
        """See `Watcher`."""
        if self.parameters is not None:
            state.restore(self.parameters, {}, 0)
            self.parameters = None
        return 0, True

    def record(self, record: dict[str, Any]) -> None:
        """See `Watcher`."""
        self.records.append(record)
        self.display.update(record)

    def copy(self, described: Described, state: HostState, rounds: int) -> bool:
        """See `Watcher`."""
        return True

    def copy_wanted(self) -> bool:
        """See `Watcher`."""
        return False

    def log(self, name: str) -> LineLog:
        """See `Watcher`."""
        return LineLog(None, "" if name == "host" else f"[{name}] ", self.display.message)

    def message(self, text: str) -> None:
        """See `Watcher`: it may hold text from files and other hosts."""
        self.display.message(printable(text))

    def obeyed(self) -> AbstractContextManager[None]:
        """See `Watcher`."""
        return self.interrupted.obeyed() if isinstance(self.interrupted, Interrupts) else nullcontext()

    def workers(self, alive: int, hosts: int) -> None:
        """See `Watcher`."""
        self.display.workers(alive, hosts)

    def memory(self) -> dict[str, Any]:
        """See `Watcher`."""
        return {}

    def remember(self, memory: dict[str, Any]) -> None:
        """See `Watcher`."""

    def joined(self, host: int, described: Described, state: HostState, rounds: int) -> None:
        """See `Watcher`."""

    def control(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> ControlSocket | None:
        """See `Watcher`."""
        return None


class Execution(Protocol):
    """A job, and the way its rounds are run."""

    @property
    def job(self) -> JobFacts:
        """What is known of the job here."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What made it, for run.json."""

    @property
    def code(self) -> Mapping[str, CodeFile]:
        """The files of the process that made it, where that is none that computes."""

    @property
    def since(self) -> float:
        """When it was begun to make it, on the monotonic clock."""

    def __call__(
        self, request: Request, watcher: Watcher, stall_seconds: float | None = None,
        companions: Companions | None = None,
    ) -> Outcome:  # fmt: skip
        """Run the rounds.

        Args:
            request: what of the job, on what.
            watcher: hears of it.
            stall_seconds: how long a worker may make no progress; None = adapted to its usual pace.
            companions: the way to other hosts that take part.
        """


@dataclass(frozen=True)
class Supervised:
    """By processes of this host.

    Attributes:
        job, arguments, code: see `Execution`.
        host: its warm parent, which has been told of the job: closed by a call.
    """

    job: JobFacts
    host: WarmParent
    arguments: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, CodeFile] = field(default_factory=dict)

    @property
    def since(self) -> float:
        """See `Execution`."""
        return self.host.started

    def __call__(
        self, request: Request, watcher: Watcher, stall_seconds: float | None = None,
        companions: Companions | None = None,
    ) -> Outcome:  # fmt: skip
        """See `Execution`."""
        return Supervisor(self.job, self.host, request, watcher, stall_seconds, companions).run()

    @contextmanager
    def copied(self) -> Iterator[Supervised]:
        """The same by a copy of the warm parent, so that this one can be called again."""
        with self.host.copied() as host:
            yield replace(self, host=host)


@dataclass(frozen=True)
class InProcess:
    """In this process, for debugging.

    Attributes:
        job, arguments, since, code: see `Execution`.
    """

    job: Job
    arguments: Mapping[str, Any] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    code: Mapping[str, CodeFile] = field(default_factory=dict)

    def __call__(
        self, request: Request, watcher: Watcher, stall_seconds: float | None = None,
        companions: Companions | None = None,
    ) -> Outcome:  # fmt: skip
        """See `Execution`; nothing here stalls, and no host takes part."""
        with left_as_they_are():
            try:
                return run_here(self.job, request, watcher)
            except SystemExit as leaving:
                raise JobError(exit_told(leaving), user_traceback(leaving)) from leaving


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
        yield Supervised(job, own, code=code_files())


def checked(job: object) -> Job:
    """A job that a person has given.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(job, Job):
        raise UsageError(f"a job is a unisono.Job; received {type(job).__name__}. Call the function that makes it.")
    return job


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
        yield Supervised(outline, own, outline.arguments)


def execute(
    job: Job, request: Request, watcher: Watcher, stall_seconds: float | None = None, debug: bool = False,
    host: WarmParent | None = None,
) -> Outcome:  # fmt: skip
    """Run a job's rounds once, without a run folder: for tests and benchmarks.

    Args:
        job: the job.
        request, watcher, stall_seconds: see `Execution`.
        debug: everything in this process.
        host: see `supervised`.
    """
    if debug:
        return InProcess(job)(request, watcher)
    with supervised(job, host) as execution:
        return execution(request, watcher, stall_seconds)
