"""Why a host is to go, and whether it leaves alone or the run ends: one of the numbers that hosts exchange; pure."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

ASKED, OUT_OF_TIME = 0, 1000
"""Causes that are no signals: `run.stop()`, and `--max-time`."""


def signal_name(number: int) -> str:
    """A signal as people know it.

    >>> signal_name(9), signal_name(41)
    ('SIGKILL', 'signal 41')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True)
class Shutdown:
    """One host is to go.

    Attributes:
        leaves: whether it leaves, and the others go on; else the run ends.
        cause: a signal's number, `ASKED` or `OUT_OF_TIME`.

    >>> Shutdown.of(Shutdown(True, 15).word), Shutdown.of(0)
    (Shutdown(leaves=True, cause=15), None)
    >>> str(Shutdown(True, 15)), str(Shutdown(False, OUT_OF_TIME))
    ('was told to go (SIGTERM)', 'has no time left (--max-time)')
    """

    leaves: bool
    cause: int

    @property
    def word(self) -> int:
        """As a number that is not 0."""
        return 2 * (self.cause + 1) + self.leaves

    @staticmethod
    def of(word: int) -> Shutdown | None:
        """Read `word` back; None of 0."""
        return Shutdown(bool(word & 1), (word >> 1) - 1) if word > 1 else None

    @property
    def reason(self) -> str:
        """How run.json calls it."""
        return {ASKED: "stop", OUT_OF_TIME: "max-time"}.get(self.cause, "signal")

    @property
    def signal(self) -> int:
        """The signal of which the exit status tells."""
        return {ASKED: int(signal.SIGINT), OUT_OF_TIME: int(signal.SIGTERM)}.get(self.cause, self.cause)

    def __str__(self) -> str:
        if self.cause in (ASKED, OUT_OF_TIME):
            return "was asked to stop" if self.cause == ASKED else "has no time left (--max-time)"
        return f"was told to go ({signal_name(self.cause)})"


class Fate(Enum):
    """What becomes of one host once all have exchanged why they are to go."""

    GOES_ON = "it goes on with those that stay"
    LEAVES = "it leaves, and others go on"
    ENDS = "the run ends"


def leavers(asked: Sequence[Shutdown | None]) -> tuple[int, ...]:
    """The places of the hosts that leave, of all that have exchanged; () where nobody does, or the run ends.

    It ends where one of them says so, or all leave.

    >>> leave, end = Shutdown(True, 15), Shutdown(False, 15)
    >>> leavers([None, leave, None]), leavers([None, leave, end]), leavers([leave, leave])
    ((1,), (), ())
    """
    leave = tuple(place for place, each in enumerate(asked) if each is not None and each.leaves)
    ends = len(leave) == len(asked) or any(each is not None and not each.leaves for each in asked)
    return () if ends else leave


def fate(asked: Sequence[Shutdown | None], own: int) -> Fate:
    """What becomes of a host where some are to go.

    Args:
        asked: why each of the hosts is to go, if it is: one of them is.
        own: the host's place among them.
    """
    leave = leavers(asked)
    return Fate.ENDS if not leave else Fate.LEAVES if own in leave else Fate.GOES_ON
