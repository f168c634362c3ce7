"""The warm parent: a single-threaded process that has imported the framework and the job, and forks workers.

Started by exec, so that nothing of the supervisor's (threads, locks, a notebook's kernel) is inherited. It lives as
long as the supervisor's end of the channel is open. Workers and loaders are the supervisor's children and outlive it:
it forks a process that forks them and ends. Its other children die with it.

A framework that can be forked after it has computed (PyTorch on one thread) is prepared here once, and children work
at once. With one that can't (a *cold* one), this process imports and never computes: a first child, the scout, makes
the model and writes the first values to shared memory, and every worker makes the model again for itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from unisono.errors import JobError, UnisonoError
from unisono.errors.exits import exits_told
from unisono.errors.failure import STACK_SIGNAL, Failure, described_error, failure
from unisono.frameworks.registry import complete_imports, framework
from unisono.job import Job
from unisono.machine.descriptors import is_single, shared_by_forks
from unisono.memory.heap import trim
from unisono.memory.segment import Segment
from unisono.runtime.loader.samples import load_ahead
from unisono.runtime.preparation.code_files import CodeFile
from unisono.runtime.preparation.outline import Outline
from unisono.runtime.preparation.prepare import Described, Prepared, Request, prepare, prepare_again
from unisono.runtime.preparation.probe import probed
from unisono.runtime.processes.channel import CLOSED, Channel, NoRoom
from unisono.runtime.processes.deaths import CLOSED_STATUS
from unisono.runtime.processes.job_holder import Again, Holder, again, changed_environment, ended, in_child
from unisono.runtime.processes.lifeline import die_with_parent, fork_for
from unisono.runtime.processes.printing import print_for_the_supervisor, print_lossily, print_nothing
from unisono.runtime.processes.profiler import measured, stand_back
from unisono.runtime.processes.report import tell
from unisono.runtime.processes.signals import SIGNALS
from unisono.runtime.processes.source import Source
from unisono.runtime.processes.stacks import answers_in
from unisono.runtime.state.host_state import HostState
from unisono.runtime.worker.context import WorkerFailed

_PR_SET_NAME = 15

_RARELY = (20_000, 10, 10)
"""When the collector looks while a job is loaded. Imports make hundreds of thousands of objects and hardly any garbage:
looking at them as often as usual takes a seventh of their time."""


def main(file: int, supervisor: int, stacks: int) -> None:
    """Serve the supervisor until it closes the channel."""
    die_with_parent(supervisor)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # they are the supervisor's
    answers_in(stacks)
    print_lossily()
    os._exit(served(Parent(Channel(socket.socket(fileno=file)), supervisor)))


def _described(verb: str, error: BaseException) -> Failure:
    if isinstance(error, UnisonoError) and verb in ("take", "apply", "fork"):  # it says where it was raised
        return described_error(error)
    return failure(error, f"while the job was set up ({verb})")


def served(parent: Parent) -> int:
    """Serve a supervisor until it closes the channel; returns the exit status."""
    try:
        with exits_told():
            parent.serve()
    except (EOFError, ConnectionError):
        return 0
    except OSError as error:
        if error.errno in CLOSED:
            return CLOSED_STATUS
        raise


@dataclass(frozen=True)
class Life:
    """What a child is to be: role ("worker", "loader", "profiler"), its number, its ends of two pipes."""

    role: str
    number: int
    output: int
    report: int


class Parent:
    """What the supervisor may ask for: a public method each, besides `serve`.

    Args:
        channel: the supervisor's messages.
        supervisor: its process.
    """

    def __init__(self, channel: Channel, supervisor: int) -> None:
        self._channel, self._supervisor = channel, supervisor
        self._holder: Holder
        self._request: Request
        self._described: Described
        self._prepared: Prepared
        self._state: HostState
        self._event = -1
        self._usual = gc.get_threshold()
        gc.set_threshold(*_RARELY)

    def serve(self) -> NoReturn:
        """Answer until the supervisor closes the channel.

        Raises:
            EOFError: it has.
        """
        while True:
            try:
                (verb, *arguments), files = self._channel.receive()
            except NoRoom as error:
                self._channel.send(failure(error, "while a process was to be started"))
                continue
            if verb == "prepare" and self._holder.is_cold:
                self._request = arguments[0]
                self._send(partial(self._scout, self._request))
                continue
            if verb == "export":
                self._send(partial(self._export, *arguments))
                continue
            self._channel.answer(partial(getattr(self, verb), *arguments, *files), partial(_described, verb))

    def take(self, folder: str, path: list[str], source: Source, how: Again, *files: int) -> Outline | Again | None:
        """Stand where the supervisor stands and take the job (see `Holder`)."""
        os.chdir(folder)
        sys.path[:] = path
        self._holder = Holder(source.received(files), how)
        held = self._holder.take()
        gc.freeze()  # the collector need not look at all that was imported again
        return held

    def imports(self, *names: str) -> None:
        """Import modules before any job is taken, for all whose processes are copies of this one."""
        for name in names:
            importlib.import_module(name)

    def print_to(self, output: int) -> None:
        """Print into a pipe of the supervisor's from now on."""
        for number in (1, 2):
            os.dup2(output, number)
        os.close(output)
        print_for_the_supervisor()

    def copy(self, end: int, start: int) -> int:
        """Fork a process that holds the job as this one does, and serves another channel; returns its number."""
        complete_imports()
        gc.freeze()

        def serve() -> int:
            os.setpgid(0, 0)
            self._channel.close()
            self._channel = Channel(socket.socket(fileno=end))
            return served(self)

        return self._adopted(serve, start, end)

    def apply(self, function: Callable[..., Any], threads: int, *arguments: Any) -> Any:
        """What a function of the job returns, in a child."""
        return in_child(lambda: function(self._holder.job(threads), *arguments))

    def _job(self) -> Job:
        """The job as the run has it."""
        job, change = self._holder.job(self._request.threads), self._request.change
        return job if change is None else change(job)

    def prepare(self, request: Request) -> Described | Again:
        """Make the job ready here."""
        self._request = request
        before = shared_by_forks()
        self._prepared = prepare(self._job(), request)
        family = self._prepared.framework.family
        if not family.forks_after_computing:
            return Again((family.package,), apart=False, environment=changed_environment())
        return self._prepared.described if is_single() and self._prepared.reads_apart(before) else again()

    def _send(self, errand: Callable[[], None]) -> None:
        """Have a child do something and answer for this process."""
        parent = os.getpid()
        process = os.fork()
        if not process:
            try:
                die_with_parent(parent)
                errand()
            finally:
                os._exit(0)
        _, status = os.waitpid(process, 0)
        if status:
            self._channel.send(Failure(ended(os.waitstatus_to_exitcode(status))))

    def _export(self, steps: int) -> None:
        self._channel.answer(
            lambda: self._prepared_worker().export(self._state, steps),
            partial(failure, where="while the model was saved"),
        )

    def _scout(self, request: Request) -> None:
        """Make the job ready: answers "prepare", then "write"."""
        where = partial(failure, where="while the job was set up")
        if self._channel.answer(lambda: self._made_ready(request), where):
            (_, initialise), files = self._channel.receive()
            self._channel.answer(
                partial(self.write, initialise, *files), partial(failure, where="while the first values were written")
            )

    def _made_ready(self, request: Request) -> Described:
        self._prepared = prepare(self._job(), request)
        self._prepared.adapter.compile()
        return self._prepared.described

    def write(self, initialise: bool, segment: int) -> Mapping[str, str]:
        """Write the first values to shared memory, if so wished, and make the model's parameters views of it; returns
        what other hosts compare (see `probed`)."""
        layout = self._prepared.layout
        self._state = HostState(layout, Segment(segment, layout.segment))
        if initialise:
            self._prepared.initialise(self._state)
        self._prepared.bind(self._state)
        trim()  # the model's first values are in shared memory now
        return self._probed() if initialise and self._request.several_hosts else {}

    def _probed(self) -> Mapping[str, str]:
        """In a process that ends afterwards: the scout, or a child of its own."""

        def quietly() -> dict[str, str]:
            print_nothing()  # the first step prints it all
            return probed(self._prepared, self._state)

        found: dict[str, str] = {}
        with contextlib.suppress(UnisonoError):  # it has crashed, as a worker will
            found = quietly() if self._holder.is_cold else in_child(quietly)
        return found

    def attend(self, described: Described, segment: int, event: int) -> None:
        """The shared memory is written: get ready to fork."""
        self._described, self._event = described, event
        if self._holder.is_cold:
            self._state = HostState(described.layout, Segment(segment, described.layout.segment))
        else:
            os.close(segment)  # "write" has mapped it here
        gc.collect()  # else a child's collector would write to every page of objects that it shares with this process
        gc.freeze()
        gc.set_threshold(*self._usual)

    def succeed(
        self, told: tuple[Any, ...], request: Request, described: Described, round: int, output: int, segment: int,
        event: int, *files: int,
    ) -> tuple[str, Mapping[str, CodeFile]] | Again:  # fmt: skip
        """Take over from a process that was lost: all that it was told, at once.

        Returns:
            The digest of some samples, and what code was read.
        """
        self.print_to(output)
        taken = self.take(*told, *files)
        if isinstance(taken, Again):
            return taken
        self._request = request
        if self._holder.is_cold:
            made = in_child(lambda: self._made_ready(request))
        else:
            made = self.prepare(request)
            if isinstance(made, Again):
                return made
            self.write(False, os.dup(segment))
        self.attend(described, segment, event)
        self.catch_up(round)
        return made.samples, made.code

    def catch_up(self, round: int) -> None:
        """Bring the schedules to a round, so that a child forked later need not."""
        if not self._holder.is_cold:
            self._prepared.catch_up(self._state, round)

    def fork(self, role: str, number: int, output: int, report: int, start: int) -> int:
        """Start a child; returns its process number."""
        sys.stdout.flush()
        sys.stderr.flush()
        life = Life(role, number, output, report)
        return self._adopted(partial(self._live, life), start, output, report)

    def _adopted(self, live: Callable[[], int], start: int, *ends: int) -> int:
        """Fork a child that the supervisor adopts; returns its process number."""
        try:
            return fork_for(self._supervisor, start, live)
        except OSError as error:
            raise JobError(
                f"the system starts no more processes ({error.strerror}): allow more (ulimit -u, the container's limit)"
            ) from error
        finally:
            for end in (start, *ends):
                os.close(end)

    def _live(self, life: Life) -> int:
        """A child's life; returns its exit status."""
        ctypes.CDLL(None).prctl(_PR_SET_NAME, f"unisono-{life.role}".encode(), 0, 0, 0)  # what `ps` and `top` show
        self._channel.close()
        os.dup2(life.output, 1)
        os.dup2(life.output, 2)
        print_for_the_supervisor()
        faulthandler.register(STACK_SIGNAL, file=life.report)
        try:
            trouble = self._work(life)
            tell(life.report, trouble)
            return 0 if trouble is None else 1
        except OSError as error:
            return CLOSED_STATUS if error.errno in CLOSED else 1
        except SystemExit as request:  # the job's code left by itself
            return request.code if isinstance(request.code, int) and request.code else 1
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()

    def _work(self, life: Life) -> Failure | None:
        try:
            if life.role == "loader":
                self._load(life.number)
            elif life.role == "profiler":
                self._profile()
            else:
                self._prepared_worker().worker(life.number, self._state, lambda: os.eventfd_write(self._event, 1)).run()
            return None
        except WorkerFailed as error:
            return error.description
        except Exception as error:
            return failure(error, f"{life.role} {life.number}")

    def _prepared_worker(self) -> Prepared:
        if self._holder.is_cold:
            self._prepared = prepare_again(self._job(), self._request, self._described)
            self._prepared.bind(self._state)
        return self._prepared

    def _profile(self) -> None:
        stand_back()
        found = self._state.segment["profile"]
        self._state = HostState(self._described.layout, self._state.segment.private())
        prepared = self._prepared_worker()
        prepared.bind(self._state)
        found[:] = measured(prepared)

    def _load(self, number: int) -> None:
        if self._holder.is_cold:
            job = self._job()
            self._prepared = Prepared(job, self._request, framework(self._described.framework), self._described)
        prepared = self._prepared
        prepared.check_data()
        share = (number, prepared.layout.shape.loaders)
        load_ahead(prepared.reader(), prepared.program, prepared.ring(self._state.segment), self._state, share)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
