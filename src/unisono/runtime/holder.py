"""How the process that forks workers holds a job: as an object of its own, or pickled, where the job has computed.

Whoever has computed on several threads, or with a framework that starts some, cannot be forked. So where the file's
code, or a *cold* framework's (see `Parent`), may compute, a child does it and sends the job back pickled.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unisono.errors import UnisonoError
from unisono.frameworks.registry import FAMILIES, family_of, framework, loaded, named_beside
from unisono.job import Job
from unisono.runtime.failure import Failure, described_error, failure
from unisono.runtime.leftovers import shared_folder
from unisono.runtime.lifeline import die_with_parent
from unisono.runtime.outline import Outline
from unisono.runtime.parcel import Parcel
from unisono.runtime.source import Pickled, Recipe, Source, memory_file, packed


@dataclass(frozen=True)
class Again:
    """What has computed here must not have: a fresh process is to take the job, as this says.

    Attributes:
        imports: adapters whose frameworks it imports first, and leaves the computing with them to its children.
        apart: whether a child reads the job's file, which leaves threads behind.
    """

    imports: tuple[str, ...]
    apart: bool


class Holder:
    """Takes a job once, and gives it to whoever asks, in this process and its children.

    Args:
        source: where the job comes from.
        imports: adapters whose frameworks are imported first.
    """

    def __init__(self, source: Source, imports: tuple[str, ...]) -> None:
        self._source = source
        self._job: Job | None = None
        self.cold: tuple[str, ...] = ()
        self._import(imports)

    def _import(self, packages: tuple[str, ...]) -> None:
        """Import frameworks here, so that no child has to."""
        cold = [family_of(package) for package in packages if not family_of(package).forks_after_computing]
        if cold:
            for variable in {family.compiled for family in FAMILIES if family.compiled} - os.environ.keys():
                os.environ[variable] = shared_folder("unisono-compiled-")
        for package in packages:
            framework(package)
        self.cold += tuple(family.package for family in cold)

    def take(self, apart: bool) -> Outline | Again | None:
        """Read the job; returns its outline, None where who pickled it knows it.

        Args:
            apart: whether a child reads it.

        Raises:
            UnisonoError: it failed.
        """
        if isinstance(self._source, Pickled):
            return None
        if apart:
            return self._from_child(lambda: self._source.read(travels=True))
        recipe = self._source.read()
        if not _is_single():
            return _computed()
        self._import(tuple(f.package for f in named_beside(recipe.beside) if not f.forks_after_computing))
        if self.cold:
            return self._from_child(lambda: recipe)
        self._job = recipe.make()
        return Outline.of(self._job, recipe.arguments) if _is_single() else _computed()

    def _from_child(self, read: Callable[[], Recipe]) -> Outline:
        outline: Outline
        file = memory_file()
        outline, parcel = in_child(partial(_made, read, file))
        self._source = Pickled(parcel, file)
        return outline

    def job(self, threads: int) -> Job:
        """The job. A pickled one may hold objects of its framework (a Keras optimizer) whose making is this process's
        first computation, so the threads are fixed before."""
        if self._job is not None:
            return self._job
        for package in self.cold:
            framework(package).data.pin(threads)
        return self._source.read().make()


def _made(read: Callable[[], Recipe], file: int) -> tuple[Outline, Parcel]:
    recipe = read()
    job = recipe.make()
    return Outline.of(job, recipe.arguments), packed(job, file)


def _is_single() -> bool:
    """Whether this process has one thread, and so can be forked."""
    return len(list(Path("/proc/self/task").iterdir())) == 1


def _computed() -> Again:
    return Again(tuple(family.package for family in loaded()), apart=True)


def in_child(function: Callable[[], Any]) -> Any:
    """What a function returns in a child of this process.

    Args:
        function: what it returns or raises travels pickled.

    Raises:
        UnisonoError: the function failed, or the child was ended.
    """
    there, end = os.pipe()
    parent = os.getpid()
    process = os.fork()
    if not process:
        try:
            die_with_parent(parent)
            try:
                answer = function()
            except Exception as error:
                known = isinstance(error, UnisonoError)
                answer = described_error(error) if known else failure(error, "outside training")
            with os.fdopen(end, "wb") as file:
                pickle.dump(answer, file)
        finally:
            os._exit(0)
    os.close(end)
    with os.fdopen(there, "rb") as file:
        held = file.read()
    _, status = os.waitpid(process, 0)
    answer = pickle.loads(held) if held else Failure(ended(os.waitstatus_to_exitcode(status)))
    if isinstance(answer, Failure):
        raise answer.error()
    return answer


def ended(status: int) -> str:
    """How a child of the process that holds the job has ended without an answer.

    Args:
        status: its exit status; −n: killed by signal n.

    >>> ended(-9)
    "the process that makes the job's model did not answer: it was ended by SIGKILL; see logs/."
    """
    cause = f"it was ended by {signal.Signals(-status).name}" if status < 0 else f"it ended with {status}"
    return f"the process that makes the job's model did not answer: {cause}; see logs/."
