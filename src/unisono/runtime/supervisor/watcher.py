"""The three seams between a supervisor and whoever has a run supervised; what has a default need not be there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from unisono.observe.logs import LineLog
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.rules.shutdown import Shutdown
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.model_state import ModelState
from unisono.runtime.supervisor.control_socket import ControlSocket


class Listener(Protocol):
    """Hears of a run, and never blocks."""

    def log(self, name: str) -> LineLog:
        """Where a process's output goes."""

    def message(self, text: str) -> None:
        """Something that a person should know."""

    def record(self, record: dict[str, Any]) -> None:
        """A round's merged record."""

    def workers(self, alive: int, hosts: int) -> None:
        """How many workers are alive, and on how many hosts."""


class StateKeeper(Protocol):
    """Puts a checkpoint into the state, and copies the state to others."""

    def restore(self, described: Described, state: HostState) -> tuple[int, bool]:
        """Put a checkpoint's values into the state; returns the round to begin with, and whether to go on at all."""

    def copy(self, described: Described, state: ModelState, rounds: int) -> bool:
        """The state stands still after so many rounds: copy what is wanted. False ends the run here."""
        return True

    def copy_wanted(self) -> bool:
        """Whether a checkpoint is due by the clock."""
        return False

    def memory(self) -> dict[str, Any]:
        """What it has to remember of the run besides the state, as JSON can hold it."""
        return {}

    def remember(self, memory: dict[str, Any]) -> None:
        """Another host has done more of the run, and remembers this."""
        return


class Caller(Protocol):
    """Has the run supervised: it learns how that begins, and may ask it to stop."""

    def preparing(self) -> None:
        """Another process makes the job ready: what takes long and can be done meanwhile."""
        return

    def described(self, described: Described) -> None:
        """The job is prepared."""
        return

    def joined(self, host: int, described: Described, state: HostState, rounds: int) -> None:
        """The hosts have come together after so many rounds. This one's place is `host`; the first keeps the folder."""
        return

    def control(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> ControlSocket | None:
        """The run's control socket, if it has a folder."""
        return None

    def interrupted(self) -> Shutdown | None:
        """Why the run is asked to stop, if it is."""

    def obeyed(self) -> AbstractContextManager[None]:
        """For a block that runs code of the job's in this thread, which may hang: being asked to stop raises
        `Interrupted` in it."""


class Watcher(Listener, StateKeeper, Caller, Protocol):
    """All three in one."""
