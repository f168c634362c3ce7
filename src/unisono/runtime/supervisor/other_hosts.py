"""What a supervisor asks of the way to the other hosts."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from unisono.errors.failure import Failure
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.rules.shutdown import Shutdown
from unisono.runtime.state.host_state import HostState
from unisono.runtime.supervisor.watcher import Listener


@dataclass(frozen=True)
class Own:
    """What a host says of itself.

    Attributes:
        rounds: rounds done.
        workers: its workers.
        latest: the last record, and rounds done then.
        memory: see `StateKeeper`.
    """

    rounds: int
    workers: int
    latest: tuple[int, dict[str, Any]] | None
    memory: dict[str, Any]


@dataclass(frozen=True)
class Joined:
    """This host has come together with the others.

    Attributes:
        rounds: rounds done, in all of them.
        host: this host's place among them.
        memory: that of the host that has done most.
        missed: the last round's record, where this host has not done that round itself.
    """

    rounds: int
    host: int
    memory: dict[str, Any]
    missed: dict[str, Any] | None = None


class Companions(Protocol):
    """The other hosts of a run."""

    def open(self, selector: selectors.BaseSelector, poke: Callable[[], None], listener: Listener) -> None:
        """Look for the others; what comes from them is registered with this object as its data."""

    @property
    def may_leave(self) -> bool:
        """Whether the others go on without this host: it neither keeps the run folder nor has their data."""

    def announce(self, shutdown: Shutdown) -> None:
        """This host is to go: say so, to the others too where that ends the run."""

    def ending(self) -> Shutdown | None:
        """Why the run ends, if another host has said so."""

    def see_off(self, shutdowns: Sequence[Shutdown | None]) -> None:
        """All have exchanged, and hosts leave or the run ends: say who was told to go.

        Args:
            shutdowns: by host, why it is to go.
        """

    def join(
        self, described: Described, state: HostState, own: Own, interrupted: Callable[[], bool]
    ) -> Joined | Failure | None:
        """Come together: all hosts have the same state afterwards, and a link to each other.

        Args:
            described: the job.
            state: this host's state, at rest.
            own: what else there is to say of this host.
            interrupted: looked at while waiting.

        Returns:
            Where they stand; why they do not come together; or None where the run was interrupted.

        Raises:
            UsageError: the hosts do not fit together.
        """

    @property
    def is_called(self) -> bool:
        """Whether the hosts are to come together anew."""

    def trouble(self) -> Failure | None:
        """Why the run fails, on whichever host, if it does."""

    def hear(self) -> None:
        """Something has come from the others."""

    def part(self) -> None:
        """End the link to the others; this host is about to come to rest."""

    def close(self, failure: Failure | None, shutdown: Shutdown | None) -> None:
        """Leave; the others hear why, if the run has failed here, or if they go on (`Shutdown.leaves`)."""
