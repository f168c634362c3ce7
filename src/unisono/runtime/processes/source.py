"""Where a process gets a job from: a file that it runs, or what another process has pickled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

from unisono.errors import UsageError
from unisono.frameworks.registry import named_beside, settings, settle, views
from unisono.job import Job
from unisono.machine.devices import free_memory

if TYPE_CHECKING:
    from unisono.runtime.processes.parcel import Parcel


@dataclass(frozen=True)
class Recipe:
    """What makes a job in this process.

    Attributes:
        make: () → the job; may compute.
        beside: a function in whose module the job is written.
        arguments: what `make` was made with, as JSON can hold it.
    """

    make: Callable[[], Job]
    beside: Callable[..., Any]
    arguments: Mapping[str, Any]


class Source(Protocol):
    """A value that travels, from which a process gets the job."""

    @property
    def imports(self) -> tuple[str, ...]:
        """Adapters whose frameworks are imported where workers are forked."""

    @property
    def files(self) -> tuple[int, ...]:
        """Open files that travel with it."""
        return ()

    def received(self, files: Sequence[int]) -> Source:
        """The same in the process that it has travelled to.

        Args:
            files: what `files` are there.
        """
        return self

    def read(self) -> Recipe:
        """Do what is done once in a process.

        Raises:
            UnisonoError: it failed.
        """


@dataclass(frozen=True)
class Pickled:
    """A job that was made in another process.

    Attributes:
        parcel: it.
        file: what holds its arrays, in this process.
        imports: see `Source`.
        settings: of the frameworks, in the process that made it.
    """

    parcel: Parcel
    file: int
    imports: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @staticmethod
    def of(job: Job, say: Callable[[str], None] = lambda text: None) -> Pickled:
        """A job of this process; `close` it in the end. Its observers stay here: they run outside workers.

        Args:
            job: the job.
            say: hears what a large one takes.

        Raises:
            UsageError: something in it cannot be pickled, or it is too large.
        """
        file = memory_file()
        try:
            parcel = packed(replace(job, observers=()), file, say)
        except BaseException:
            os.close(file)
            raise
        packages = tuple(family.package for family in named_beside(job.model))
        return Pickled(parcel, file, packages, settings(packages))

    def close(self) -> None:
        """Give the file back."""
        os.close(self.file)

    @property
    def files(self) -> tuple[int, ...]:
        """See `Source`."""
        return (self.file,)

    def received(self, files: Sequence[int]) -> Pickled:
        """See `Source`."""
        return replace(self, file=files[0])

    def read(self) -> Recipe:
        """See `Source`."""
        settle(self.settings)
        return Recipe(lambda: self.parcel.open(self.file), Job, {})


class NotPicklable(UsageError):
    """Something in a job cannot be pickled."""


def memory_file() -> int:
    """A new file in memory, which is gone when the last process has closed it."""
    return os.memfd_create("unisono-job", os.MFD_CLOEXEC)


LARGE_BYTES = 16 << 20
"""Of a job; from here on it is said what it takes."""


def packed(value: Any, file: int | None = None, say: Callable[[str], None] = lambda text: None) -> Parcel:
    """A job, or what holds one, as it travels.

    Args:
        value: it.
        file: see `Parcel.of`.
        say: hears what a large one takes.

    Raises:
        UsageError: something in it cannot be pickled, or memory does not suffice.
    """
    from unisono.runtime.processes.culprit import culprit
    from unisono.runtime.processes.parcel import Parcel, Survey

    seen = views()
    survey = Survey(seen)

    def travels(part: Any) -> bool:
        try:
            Survey(seen).size(part)
        except Exception:
            return False
        return True

    sizes, name, part = {}, "job", value
    try:
        for name, part in _parts(value):
            sizes[name] = survey.size(part)
        _check(sizes, say)
        return Parcel.of(value, survey, seen, file)
    except UsageError:
        raise
    except Exception as error:
        raise NotPicklable(
            "a job of a script or a notebook travels to other processes, so all it refers to must be picklable; "
            f"received {culprit(name, part, travels)} ({error}). Make files, locks and connections inside a function, "
            "data=lambda: open_my_data(), or write the job into a file and run unisono train FILE.py."
        ) from error


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """A job's fields, also those of a job in a dictionary."""
    parts = value if isinstance(value, Mapping) else {item.name: getattr(value, item.name) for item in fields(value)}
    for name, part in parts.items():
        yield from _parts(part) if isinstance(part, Job) else [(name, part)]


def _check(sizes: Mapping[str, int], say: Callable[[str], None]) -> None:
    total = sum(sizes.values())
    if total < LARGE_BYTES:
        return
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name}: {size / 1e6:,.0f} MB" for name, size in largest if size >= total / 100)
    free = free_memory()
    if total > free:
        raise UsageError(
            f"a job that is made in a script or a notebook is copied to the processes that train it; received {shown}, "
            f"and {free / 1e6:,.0f} MB of memory are free. Give a function that opens what is large where it is used, "
            "data=lambda: open_my_data(), or write the job into a file and run unisono train FILE.py, which copies "
            "nothing."
        )
    say(f"copying the job to the processes that train it, once ({shown})")
