"""Who hangs: a member that has work to do and whose words stand still for too long."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

FLOOR_SECONDS = 10.0
MULTIPLE = 20.0
UNKNOWN_SECONDS = 300.0
"""Patience with a kind of work that nobody has finished yet: the first time may load, compile, download."""

LONGEST_TICK_SECONDS = 1.0
"""More time than this between two looks was the watcher's own sleep (a suspended machine), not the worker's."""

BEGINNING = "beginning"
"""The kind of work of one that has not begun yet: it may have to import, load and compile what others have."""

LEAVING = "leaving"
"""That of one whose run is over: nobody takes long for it."""

STOPPED = "stopped"
"""Whatever one was at that somebody has stopped from outside: either it is told to go on soon, or not at all."""


def _not_held_up() -> float:
    return 0.0


@dataclass
class Patience:
    """Patience with somebody, used up by the time in which he could go on.

    Args:
        seconds: how much there is.

    >>> patience = Patience(1.0)
    >>> patience.spend(0.6), patience.spend(0.6, held_up=0.6), patience.spend(0.6)
    (False, False, True)
    """

    seconds: float
    spent: float = 0.0

    def spend(self, elapsed_seconds: float, held_up: float = 0.0) -> bool:
        """Time has passed.

        Args:
            elapsed_seconds: since the last look.
            held_up: seconds of it in which he wanted to go on, and the machine did not let him.

        Returns:
            Whether patience is over.
        """
        self.spent += min(max(elapsed_seconds - held_up, 0.0), LONGEST_TICK_SECONDS)
        return self.spent > self.seconds


def patience_after(longest: float | None) -> float:
    """Seconds for a piece of work.

    Args:
        longest: seconds of the longest one of its kind so far; None = nobody has finished any.
    """
    return UNKNOWN_SECONDS if longest is None else max(FLOOR_SECONDS, MULTIPLE * longest)


@dataclass
class _Watch:
    kind: str
    slots: Hashable
    mark: Hashable
    patience: Patience


@dataclass
class Stalls:
    """Watches members.

    Args:
        seconds: how long words may stand still at work; None = 20 × the longest of its kind seen so far, at least 10 s.

    >>> stalls = Stalls(1.0)
    >>> [stalls.look("m", "compute", (0,), (3, 0), 0.4) for _ in range(4)]
    [False, False, False, True]
    """

    seconds: float | None = None
    _watched: dict[Hashable, _Watch] = field(default_factory=dict)
    _longest: dict[str, float] = field(default_factory=dict)
    _begun: set[tuple[Hashable, str]] = field(default_factory=set)

    def look(
        self, who: Hashable, kind: str, slots: Hashable, mark: Hashable, elapsed_seconds: float,
        held_up: Callable[[], float] = _not_held_up,
    ) -> bool:  # fmt: skip
        """Look at one who has work to do.

        Args:
            who: a member or loader.
            kind: the kind of work.
            slots: whose work. Where they change, the mark does too, and nothing is known of how long the work takes.
            mark: anything that changes as the work goes on.
            elapsed_seconds: time since the last look at anybody.
            held_up: see `Patience`; asked only where nothing has changed.

        Returns:
            Whether it hangs.
        """
        watch = self._watched.get(who)
        if watch is not None and (watch.kind, watch.slots, watch.mark) == (kind, slots, mark):
            watch.patience.seconds = max(watch.patience.seconds, self._limit(kind))  # others may have learned more
            return watch.patience.spend(elapsed_seconds, held_up())
        if watch is not None and watch.slots == slots:
            self._learn(who, watch)
        self._watched[who] = _Watch(kind, slots, mark, Patience(self._limit(kind)))
        return False

    def _learn(self, who: Hashable, done: _Watch) -> None:
        """How long a piece of work has taken; how long one was about to begin tells nothing of it."""
        if (who, done.kind) in self._begun:
            self._longest[done.kind] = max(self._longest.get(done.kind, 0.0), done.patience.spent)
        self._begun.add((who, done.kind))

    def _limit(self, kind: str) -> float:
        if kind == BEGINNING:
            return UNKNOWN_SECONDS
        if self.seconds is not None:
            return self.seconds
        if kind in (LEAVING, STOPPED):
            return FLOOR_SECONDS
        return patience_after(self._longest.get(kind))

    def forget(self, who: Hashable) -> None:
        """It is dead, or waits for others."""
        self._watched.pop(who, None)
