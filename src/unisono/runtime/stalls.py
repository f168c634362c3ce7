"""Who hangs: a member that has work to do and whose words stand still for too long."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

FLOOR_SECONDS = 10.0
MULTIPLE = 20.0
UNKNOWN_SECONDS = 300.0
"""Patience with a kind of work that nobody has finished yet: the first time may load, compile, download."""

LONGEST_TICK_SECONDS = 1.0
"""More time than this between two looks was the watcher's own sleep (a suspended machine), not the worker's."""


@dataclass
class _Watch:
    mark: Hashable
    kind: str
    seconds: float = 0.0


@dataclass
class Stalls:
    """Watches members.

    Args:
        seconds: how long words may stand still; None = 20 × the longest of its kind seen so far, at least 10 s.

    >>> stalls = Stalls(1.0)
    >>> [stalls.look("m", "compute", (3, 0), 0.4) for _ in range(4)]
    [False, False, False, True]
    """

    seconds: float | None = None
    _watched: dict[Hashable, _Watch] = field(default_factory=dict)
    _longest: dict[str, float] = field(default_factory=dict)
    _begun: set[tuple[Hashable, str]] = field(default_factory=set)

    def look(self, who: Hashable, kind: str, mark: Hashable, elapsed_seconds: float) -> bool:
        """Look at one who has work to do.

        Args:
            who: a member or loader.
            kind: the kind of work.
            mark: anything that changes as the work goes on.
            elapsed_seconds: time since the last look at anybody.

        Returns:
            Whether it hangs.
        """
        watch = self._watched.get(who)
        if watch is None or watch.mark != mark or watch.kind != kind:
            if watch is not None and (who, watch.kind) in self._begun:
                self._longest[watch.kind] = max(self._longest.get(watch.kind, 0.0), watch.seconds)
            elif watch is not None:
                self._begun.add((who, watch.kind))  # how long it was about to begin tells nothing of the work
            self._watched[who] = _Watch(mark, kind)
            return False
        watch.seconds += min(elapsed_seconds, LONGEST_TICK_SECONDS)
        return watch.seconds > self._limit(kind)

    def _limit(self, kind: str) -> float:
        if self.seconds is not None:
            return self.seconds
        if kind not in self._longest:
            return UNKNOWN_SECONDS
        return max(FLOOR_SECONDS, MULTIPLE * self._longest[kind])

    def forget(self, who: Hashable) -> None:
        """It is dead, or waits for others."""
        self._watched.pop(who, None)
