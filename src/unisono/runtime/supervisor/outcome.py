"""How a run ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unisono.errors import JobError
from unisono.errors.failure import Failure
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.rules.shutdown import Shutdown
from unisono.runtime.state.model_state import ModelState


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        described: what was run.
        state: the model in shared memory.
        rounds: rounds done.
        consistent: whether the state is that after those rounds.
        failure: why the run failed, if it did.
        release: gives the shared memory back, in which no process works any more; leaving a `with` calls it.
        shutdown: why it ended before its last round, if it was asked to, here or on another host.
    """

    described: Described
    state: ModelState
    rounds: int
    consistent: bool
    failure: Failure | None
    release: Callable[[], None] = lambda: None
    shutdown: Shutdown | None = None

    def __post_init__(self) -> None:
        self.consistent = self.consistent and not (self.failure and self.failure.spoiled)

    def __enter__(self) -> Outcome:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    @property
    def steps_done(self) -> int:
        """Training steps done."""
        return self.described.program.position(self.rounds)[0]

    @property
    def complete(self) -> bool:
        """Whether every round was done."""
        return self.described.program.next(self.rounds) is None

    @property
    def left(self) -> bool:
        """Whether this host has left, and others go on."""
        return self.shutdown is not None and self.shutdown.leaves


def raise_failure(outcome: Outcome) -> None:
    """Raise what made the run fail.

    Raises:
        JobError: it failed.
    """
    if outcome.failure is not None:
        raise JobError(outcome.failure.message, outcome.failure.traceback)
