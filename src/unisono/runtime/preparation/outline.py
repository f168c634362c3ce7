"""What a run has to know of a job outside the processes that work on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from unisono.job import Job


@dataclass(frozen=True)
class Outline:
    """A job that another process holds, in plain values.

    Attributes:
        epochs, best, patience, waits_for_norms, is_evaluated: the job's.
        arguments: what made it, for run.json.
        is_observed: whether it has observers.
        load: gets the observers, which are functions and do not travel; none here.
    """

    epochs: int | None
    best: tuple[str, str] | None
    patience: int | None
    waits_for_norms: bool
    is_evaluated: bool
    is_observed: bool
    arguments: Mapping[str, Any]
    _described: dict[str, Any] = field(repr=False)
    _identity: dict[str, Any] = field(repr=False)
    load: Callable[[], Sequence[Callable[[dict[str, Any]], None]]] = tuple

    @staticmethod
    def of(job: Job, arguments: Mapping[str, Any]) -> Outline:
        """The outline of a job.

        Args:
            job: the job.
            arguments: what made it.

        >>> job = Job(model=dict, loss=max, optimizer=list, data=[(0, 1)], batch_size=1, epochs=3)
        >>> Outline.of(job, {}).epochs, Outline.of(job, {}).identity() == job.identity()
        (3, True)
        """
        return Outline(
            job.epochs, job.best, job.patience, job.waits_for_norms, job.is_evaluated, job.is_observed,
            arguments, job.described(), job.identity(),
        )  # fmt: skip

    @cached_property
    def observers(self) -> Sequence[Callable[[dict[str, Any]], None]]:
        """See `Job`."""
        return self.load()

    def described(self) -> dict[str, Any]:
        """See `Job`."""
        return self._described

    def identity(self) -> dict[str, Any]:
        """See `Job`."""
        return self._identity


JobFacts = Job | Outline
"""What a job's supervisor looks at."""
