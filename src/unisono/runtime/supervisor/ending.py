"""Why a run is to end, or this host to leave it: what has failed, and what somebody has asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from unisono.errors.failure import Failure
from unisono.runtime.rules.shutdown import ASKED, Shutdown
from unisono.runtime.supervisor.other_hosts import Companions


@dataclass
class Ending:
    """What is known of it so far; the first reason counts.

    Args:
        asked: gives why this host's run is asked to stop, if it is.
        others: the way to the other hosts; None = this one is alone.

    Attributes:
        failure: why the run has failed.
        shutdown: why it ends before its last round, or this host leaves.
        shortage: why nobody can be forked any more, so that it ends after the step at hand.
    """

    asked: Callable[[], Shutdown | None]
    others: Companions | None
    failure: Failure | None = None
    shutdown: Shutdown | None = None
    shortage: Failure | None = None

    def fail(self, failure: Failure | None) -> None:
        """It has failed, where this is a failure."""
        self.failure = self.failure or failure

    def stop_for(self, shortage: Failure | None) -> None:
        """Where there is a reason, nobody can be forked any more: stop after the step at hand, as those at work can."""
        if shortage is None or self.others:  # other hosts hear of a failure
            self.fail(shortage)
            return
        self.shortage = self.shortage or shortage
        if self.shutdown is None:
            self.ask(Shutdown(False, ASKED))

    def ask(self, shutdown: Shutdown) -> None:
        """This host is to go; it leaves the others only where these can go on without it."""
        others = self.others
        self.shutdown = replace(shutdown, leaves=shutdown.leaves and others is not None and others.may_leave)
        if others:
            others.announce(self.shutdown)

    def is_due(self) -> bool:
        """Whether this host leaves or the run ends: as somebody has said, here or on another host."""
        own, ends = self.asked(), self.others.ending() if self.others else None
        if self.shutdown is None and own is not None:
            self.ask(own)
        if ends is not None and (self.shutdown is None or self.shutdown.leaves):
            self.shutdown = ends
        return self.shutdown is not None
