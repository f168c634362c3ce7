"""Where a process gets a job from: a file that it runs, or what another process has pickled."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from unisono.errors import UsageError
from unisono.frameworks.registry import named_beside
from unisono.job import Job


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

    def read(self, travels: bool = False) -> Recipe:
        """Do what is done once in a process.

        Args:
            travels: whether the job is then pickled for processes that are no copies of this one.

        Raises:
            UnisonoError: it failed.
        """


@dataclass(frozen=True)
class Pickled:
    """A job that was made in another process.

    Attributes:
        payload: it.
        imports: see `Source`.
    """

    payload: bytes
    imports: tuple[str, ...] = ()

    @staticmethod
    def of(job: Job) -> Pickled:
        """A job of this process.

        Raises:
            UsageError: something in it cannot be pickled.
        """
        return Pickled(pickled(job), tuple(family.package for family in named_beside(job.model)))

    def read(self, travels: bool = False) -> Recipe:
        """See `Source`."""
        return Recipe(lambda: pickle.loads(self.payload), Job, {})


def pickled(job: Any) -> bytes:
    """A job, or what holds one, as it travels.

    Raises:
        UsageError: something in it cannot be pickled.
    """
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(job))
    except Exception as error:
        raise UsageError(
            f"the job travels to other processes, so all it refers to must be picklable; received: {error}. "
            "Make files, locks and connections inside a function: data=lambda: open_my_data()."
        ) from error
