"""What a run's supervisor tells and asks whoever has it supervised, and how a run ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from unisono.errors import JobError
from unisono.errors.failure import Failure
from unisono.observe.logs import LineLog
from unisono.runtime.preparation.prepare import Described
from unisono.runtime.rules.shutdown import Shutdown
from unisono.runtime.state.host_state import HostState
from unisono.runtime.supervisor.control_socket import ControlSocket


class Watcher(Protocol):
    """Whoever has a run supervised."""

    def preparing(self) -> None:
        """Another process makes the job ready: what takes long and can be done meanwhile."""

    def described(self, described: Described) -> None:
        """The job is prepared."""

    def restore(self, described: Described, state: HostState) -> tuple[int, bool]:
        """Put a checkpoint's values into the state; returns the round to begin with, and whether to go on at all."""

    def record(self, record: dict[str, Any]) -> None:
        """A round's merged record."""

    def copy(self, described: Described, state: HostState, rounds: int) -> bool:
        """The state stands still after so many rounds: copy what is wanted. False ends the run here."""

    def log(self, name: str) -> LineLog:
        """Where a process's output goes."""

    def message(self, text: str) -> None:
        """Something that a person should know."""

    def interrupted(self) -> Shutdown | None:
        """Why the run is asked to stop, if it is."""

    def obeyed(self) -> AbstractContextManager[None]:
        """For a block that runs code of the job's in this thread, which may hang: being asked to stop raises
        `Interrupted` in it."""

    def workers(self, alive: int, hosts: int) -> None:
        """How many workers are alive, and on how many hosts."""

    def memory(self) -> dict[str, Any]:
        """What it has to remember of the run besides the state, as JSON can hold it."""

    def remember(self, memory: dict[str, Any]) -> None:
        """Another host has done more of the run, and remembers this."""

    def joined(self, host: int, described: Described, state: HostState, rounds: int) -> None:
        """The hosts have come together after so many rounds. This one's place is `host`; the first keeps the folder."""

    def control(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> ControlSocket | None:
        """The run's control socket, if it has a folder."""

    def copy_wanted(self) -> bool:
        """Whether a checkpoint is due by the clock."""


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        described: what was run.
        state: the shared state.
        rounds: rounds done.
        consistent: whether the state is that after those rounds.
        failure: why the run failed, if it did.
        release: gives the shared memory back, in which no process works any more; leaving a `with` calls it.
        shutdown: why it ended before its last round, if it was asked to, here or on another host.
    """

    described: Described
    state: HostState
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
        return self.rounds == self.described.program.rounds

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
