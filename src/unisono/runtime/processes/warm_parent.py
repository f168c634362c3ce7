"""The warm parent: a single-threaded process that has imported the framework and the job, and forks workers.

Started by exec, so that nothing of the supervisor's (threads, locks, a notebook's kernel) is inherited. It lives as
long as the supervisor's end of the channel is open. Workers and loaders are the supervisor's children and outlive it:
it forks a process that forks them and ends. Its other children die with it.

A framework that can be forked after it has computed (PyTorch on one thread) is prepared here once, and children work
at once. With one that can't (a *cold* one), this process imports and never computes: a first child, the scout, makes
the model and writes the first values to shared memory, and every worker makes the model again for itself.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

from unisono.errors import JobError, UnisonoError
from unisono.errors.exits import exits_told
from unisono.errors.failure import Failure, described_error, failure
from unisono.frameworks.registry import complete_imports
from unisono.runtime.preparation.code_files import CodeFile
from unisono.runtime.preparation.outline import Outline
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.processes.channel import CLOSED, Channel, NoRoom
from unisono.runtime.processes.child_life import live
from unisono.runtime.processes.deaths import CLOSED_STATUS
from unisono.runtime.processes.job_holder import Again, Holder, ended, in_child
from unisono.runtime.processes.lifeline import die_with_parent, fork_for
from unisono.runtime.processes.prepared_job import PreparedJob
from unisono.runtime.processes.printing import print_for_the_supervisor, print_lossily
from unisono.runtime.processes.signals import SIGNALS, hear_of_children
from unisono.runtime.processes.source import Source
from unisono.runtime.processes.stacks import answers_in
from unisono.runtime.rules.request import Request

_PR_SET_NAME = 15

_RARELY = (20_000, 10, 10)
"""When the collector looks while a job is loaded. Imports make hundreds of thousands of objects and hardly any garbage:
looking at them as often as usual takes a seventh of their time."""


def main(file: int, supervisor: int, stacks: int) -> None:
    """Serve the supervisor until it closes the channel."""
    die_with_parent(supervisor)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # they are the supervisor's
    hear_of_children()
    answers_in(stacks)
    print_lossily()
    os._exit(served(Parent(Channel(socket.socket(fileno=file)), supervisor)))


def _described(verb: str, error: BaseException) -> Failure:
    if isinstance(error, UnisonoError) and verb in ("take", "apply", "fork", "export"):  # it says where it was raised
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


class Parent:
    """What the supervisor may ask for: a public method each, besides `serve`, here or of its `PreparedJob`.

    Args:
        channel: the supervisor's messages.
        supervisor: its process.
    """

    def __init__(self, channel: Channel, supervisor: int) -> None:
        self._channel, self._supervisor = channel, supervisor
        self._job: PreparedJob
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
            if verb == "prepare" and self._job.holder.is_cold:
                self._scout(*arguments)
                continue
            act = getattr(self if hasattr(self, verb) else self._job, verb)
            self._channel.answer(partial(act, *arguments, *files), partial(_described, verb))

    def take(self, folder: str, path: list[str], source: Source, how: Again, *files: int) -> Outline | Again | None:
        """Stand where the supervisor stands and take the job (see `Holder`)."""
        os.chdir(folder)
        sys.path[:] = path
        self._job = PreparedJob(Holder(source.received(files), how))
        held = self._job.holder.take()
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
        return in_child(lambda: function(self._job.holder.job(threads), *arguments))

    def export(self, steps: int) -> None:
        """Leave the model in its framework's own file, from a child."""
        in_child(partial(self._job.export, steps), partial(failure, where="while the model was saved"))

    def _scout(self, request: Request) -> None:
        """A child makes the job ready and answers for this process: "prepare", then "write"."""
        self._job.request, parent = request, os.getpid()
        process = os.fork()
        if not process:
            try:
                die_with_parent(parent)
                where = partial(failure, where="while the job was set up")
                if self._channel.answer(partial(self._job.rehearsed, request), where):
                    (_, *arguments), files = self._channel.receive()
                    where = partial(failure, where="while the first values were written")
                    self._channel.answer(partial(self._job.write, *arguments, *files), where)
            finally:
                os._exit(0)
        _, status = os.waitpid(process, 0)
        if status:
            self._channel.send(Failure(ended(os.waitstatus_to_exitcode(status))))

    def attend(self, described: Described, segment: int, event: int) -> None:
        """The shared memory is written: get ready to fork."""
        self._job.attend(described, segment, event)
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
        job = self._job
        job.request = request
        if job.holder.is_cold:
            made = in_child(lambda: job.rehearsed(request))
        else:
            made = job.prepare(request)
            if isinstance(made, Again):
                return made
            job.write(False, os.dup(segment))
        self.attend(described, segment, event)
        job.catch_up(round)
        return made.samples, made.code

    def fork(
        self, role: str, number: int, environment: Mapping[str, str], output: int, report: int, start: int
    ) -> int:  # fmt: skip
        """Start a child; returns its process number."""
        sys.stdout.flush()
        sys.stderr.flush()

        def begin() -> int:
            self._channel.close()
            os.environ.update(environment)
            return live(f"{role} {number}", output, report, partial(getattr(self._job, role), number))

        return self._adopted(begin, start, output, report)

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


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
