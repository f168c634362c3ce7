"""How the process that forks workers holds a job: as an object of its own, or not at all.

Whoever has computed on several threads, or with a framework that starts some, cannot be forked; and forks share the
place at which an open file is read. So where a *cold* framework's objects (see `Parent`) may compute when the job is
made, a child makes it and sends it back pickled. Where the file leaves threads or open files behind, or the job holds
some, this process takes nothing, and every child runs the file for itself (*apart*).
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unisono.errors import UnisonoError
from unisono.errors.failure import Failure, described_error, failure
from unisono.frameworks.registry import families, family_of, framework, hold_threads, loaded, named_beside
from unisono.job import Job
from unisono.machine.descriptors import is_single, opened_since, shared_by_forks
from unisono.runtime.preparation.code_files import CodeFile, check_code, code_files
from unisono.runtime.preparation.outline import Outline
from unisono.runtime.processes.channel import Channel
from unisono.runtime.processes.file_values import compare, values_beside
from unisono.runtime.processes.leftovers import COMPILED, shared_folder
from unisono.runtime.processes.lifeline import die_with_parent
from unisono.runtime.processes.parcel import Parcel
from unisono.runtime.processes.source import NotPicklable, Pickled, Recipe, Source, memory_file, packed
from unisono.runtime.rules.shutdown import signal_name


@dataclass(frozen=True)
class Again:
    """What has computed here must not have: a fresh process is to take the job, as this says.

    Attributes:
        imports: adapters whose frameworks it imports first, and leaves the computing with them to its children.
        apart: whether every child takes the job for itself.
        environment: what the job's code has set before it imported them; None = it has taken a variable away.
    """

    imports: tuple[str, ...]
    apart: bool
    environment: Mapping[str, str | None]


class Holder:
    """Takes a job once, and gives it to whoever asks, in this process and its children.

    Args:
        source: where the job comes from.
        how: what a process that has taken it before says.
    """

    def __init__(self, source: Source, how: Again) -> None:
        for name, value in how.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        self._source, self._apart = source, how.apart
        self._job: Job | None = None
        self._values: Mapping[str, str] = {}
        self._code: Mapping[str, CodeFile] = {}
        self._cold: tuple[str, ...] = ()
        self._import(how.imports)

    @property
    def is_cold(self) -> bool:
        """Whether children make the model, each for itself."""
        return self._apart or bool(self._cold)

    def _import(self, packages: tuple[str, ...]) -> None:
        """Import frameworks here, so that no child has to."""
        cold = [family_of(name) for name in packages if self._apart or not family_of(name).forks_after_computing]
        if cold:
            for variable in {family.compiled for family in families() if family.compiled} - os.environ.keys():
                os.environ[variable] = str(shared_folder(COMPILED))
        for package in packages:
            framework(package)
        self._cold += tuple(family.package for family in cold)

    def take(self) -> Outline | Again | None:
        """Read the job; returns its outline, None where who pickled it knows it.

        Raises:
            UnisonoError: it failed.
        """
        if isinstance(self._source, Pickled):
            return None
        if self._apart:
            outline: Outline
            outline, self._values, self._code = in_child(lambda: _seen(self._source.read()))
            return outline
        before = shared_by_forks()
        recipe = self._source.read()
        if not can_fork(before):
            return again()
        self._import(tuple(f.package for f in named_beside(recipe.beside) if not f.forks_after_computing))
        if self._cold:
            file = memory_file()
            try:
                outline, parcel = in_child(partial(_made, recipe, file))
            except NotPicklable:
                return again()
            self._source = Pickled(parcel, file)
            return outline
        self._job = recipe.make()
        return Outline.of(self._job, recipe.arguments) if can_fork(before) else again()

    def job(self, threads: int) -> Job:
        """The job. One that is made here may hold objects of its framework (a Keras optimizer) whose making is this
        process's first computation, so the threads are fixed before.

        Raises:
            UnisonoError: it failed, or is not what it was when another process made it.
        """
        if self._job is not None:
            return self._job
        hold_threads(self._cold, threads)
        recipe = self._source.read()
        if self._apart:
            compare(self._values, values_beside(recipe.beside))
        job = recipe.make()
        if self._apart:
            check_code(self._code, code_files())
        return job


def _made(recipe: Recipe, file: int) -> tuple[Outline, Parcel]:
    job = recipe.make()
    return Outline.of(job, recipe.arguments), packed(job, file)


def _seen(recipe: Recipe) -> tuple[Outline, Mapping[str, str], Mapping[str, CodeFile]]:
    return Outline.of(recipe.make(), recipe.arguments), values_beside(recipe.beside), code_files()


def can_fork(before: Mapping[int, str]) -> bool:
    """Whether forks of this process would have all that it has.

    Args:
        before: what `shared_by_forks` gave before the job's code ran.
    """
    return is_single() and not opened_since(before)


def again() -> Again:
    """What this process cannot do; its children can."""
    return Again(tuple(family.package for family in loaded()), apart=True, environment=changed_environment())


def changed_environment() -> dict[str, str | None]:
    """What has been set in this process's environment since it was started, or (None) taken from it.

    >>> os.environ["KERAS_BACKEND"] = "torch"
    >>> changed_environment()["KERAS_BACKEND"]
    'torch'
    >>> del os.environ["KERAS_BACKEND"]
    """
    entries = os.fsdecode(Path("/proc/self/environ").read_bytes()).split("\0")
    started = {name: value for name, _, value in (entry.partition("=") for entry in entries if entry)}
    own = {family.compiled for family in families()}  # folders that each such process makes
    return {
        name: os.environ.get(name)
        for name in (started.keys() | os.environ.keys()) - own
        if os.environ.get(name) != started.get(name)
    }


def _described(error: BaseException) -> Failure:
    return described_error(error) if isinstance(error, UnisonoError) else failure(error, "outside training")


def in_child(function: Callable[[], Any], described: Callable[[BaseException], Failure] = _described) -> Any:
    """What a function returns in a child of this process.

    Args:
        function: what it returns or raises travels pickled.
        described: describes what it raises.

    Raises:
        UnisonoError: the function failed, or the child was ended.
    """
    mine, theirs = socket.socketpair()
    parent = os.getpid()
    process = os.fork()
    if not process:
        status = 1
        try:
            die_with_parent(parent)
            Channel(theirs).answer(function, described)
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    with closing(Channel(mine)) as channel:
        answers = _answers(channel, process)
    _, status = os.waitpid(process, 0)
    answer = answers[0] if answers else Failure(ended(os.waitstatus_to_exitcode(status)))
    if isinstance(answer, Failure):
        raise answer.error()
    return answer


def _answers(channel: Channel, process: int) -> list[Any]:
    """What a child has answered, if it has; others that it has forked may hold its end of the channel open."""
    pidfd = os.pidfd_open(process)
    try:
        there = channel.socket.fileno()
        poll = select.poll()
        for file in (there, pidfd):
            poll.register(file, select.POLLIN)
        return [channel.receive()[0]] if there in dict(poll.poll()) else []
    except (EOFError, ConnectionError):
        return []
    finally:
        os.close(pidfd)


def ended(status: int) -> str:
    """How a child of the process that holds the job has ended without an answer.

    Args:
        status: its exit status; −n: killed by signal n.

    >>> ended(-9)
    "the process that makes the job's model did not answer: it was ended by SIGKILL; see logs/."
    """
    cause = f"it was ended by {signal_name(-status)}" if status < 0 else f"it ended with {status}"
    return f"the process that makes the job's model did not answer: {cause}; see logs/."
