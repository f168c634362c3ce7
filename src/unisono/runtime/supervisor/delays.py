"""How long processes were held up: they wanted to go on, and the machine did not let them.

Linux counts for each thread how long it ran and how long it stood in the queue for a core
(`/proc/PID/task/TID/schedstat`), and shows which thread waits for the disk, or for memory (state D). A kernel that does
not count shows the latter only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

LOOK_SECONDS = 0.25
"""Between two looks: each asks the kernel about every thread of those that stand still."""

CARRIED_SECONDS = 1.0
"""A wait may count so much later, and a hang is noticed so much later at most."""


@dataclass(frozen=True)
class Thread:
    """A thread at one look.

    Attributes:
        state: "R": it runs or would like to; "D": it waits for the disk or for memory; "T": it is stopped; others: it
            waits for something else.
        ran: seconds for which it has run; NaN where the kernel does not count.
        queued: seconds for which it has stood in the queue for a core.
    """

    state: str
    ran: float
    queued: float

    def after(self, before: Thread, elapsed_seconds: float) -> Thread:
        """This look, with the time in the queue that the kernel adds only when the thread runs again.

        >>> starved = Thread("R", 1.0, 3.0).after(Thread("R", 1.0, 3.0), 0.5)
        >>> starved.queued, Thread("R", 1.1, 3.6).after(starved, 0.5).queued
        (3.5, 3.6)
        """
        stands = self.state == "R" and self.ran == before.ran
        return replace(self, queued=max(self.queued, before.queued + (elapsed_seconds if stands else 0.0)))

    def held_up(self, before: Thread, elapsed_seconds: float) -> float:
        """Seconds of the time between two looks in which it could not go on."""
        if self.state == "D":
            return elapsed_seconds
        return min(self.queued - before.queued, elapsed_seconds)

    def counted(self, before: Thread, elapsed_seconds: float) -> Thread:
        """This look as the next one goes on from it: what of a wait this one had no room for, as the wait began before
        it and the kernel added it just now, counts then.

        >>> before, now = Thread("R", 1.0, 3.0), Thread("R", 1.1, 3.7)
        >>> now.held_up(before, 0.5), round(Thread("R", 1.2, 3.7).held_up(now.counted(before, 0.5), 0.5), 3)
        (0.5, 0.2)
        """
        queued = min(self.queued, before.queued + elapsed_seconds)
        return replace(self, queued=max(queued, self.queued - CARRIED_SECONDS))


class Delays:
    """Looks at processes again and again."""

    def __init__(self) -> None:
        self._seen: dict[int, dict[int, Thread]] = {}
        self._looked = time.monotonic()

    def begin(self) -> None:
        """Somebody begins to wait: time before was nobody's."""
        self._looked = time.monotonic()

    def due(self) -> float:
        """Seconds since the last look, where it is time for the next one, which begins; else 0."""
        elapsed = time.monotonic() - self._looked
        if elapsed < LOOK_SECONDS:
            return 0.0
        self._looked += elapsed
        return elapsed

    def of(self, process: int, elapsed_seconds: float) -> float:
        """Seconds of the time since the last look in which a process was held up: as long as its thread that was so the
        longest, as the others may wait for that one. At the first look nothing is known: it may have been all the time.

        Args:
            process: its number.
            elapsed_seconds: time since the last look.
        """
        before, held_up = self._seen.get(process), 0.0
        self._seen[process] = now = dict(threads(process))
        if before is None:
            return elapsed_seconds
        for number in now.keys() & before.keys():
            thread = now[number].after(before[number], elapsed_seconds)
            held_up = max(held_up, thread.held_up(before[number], elapsed_seconds))
            now[number] = thread.counted(before[number], elapsed_seconds)
        return held_up

    def stopped(self, process: int) -> bool:
        """Whether somebody had stopped a process (SIGSTOP) at the last look: it does not run until it is told to."""
        return any(thread.state == "T" for thread in self._seen.get(process, {}).values())

    def forget(self, process: int) -> None:
        """It has ended."""
        self._seen.pop(process, None)


def threads(process: int) -> Iterator[tuple[int, Thread]]:
    """The threads of a process, by their numbers; none where it has ended."""
    with suppress(OSError):
        for folder in Path(f"/proc/{process}/task").iterdir():
            with suppress(OSError):  # it has ended meanwhile
                ran, queued = _counted(folder)
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                yield int(folder.name), Thread(state, ran, queued)


def _counted(folder: Path) -> tuple[float, float]:
    """(ran, queued) in seconds."""
    try:
        ran, queued, _ = (folder / "schedstat").read_text().split()
    except FileNotFoundError:
        return math.nan, 0.0
    return int(ran) / 1e9 or math.nan, int(queued) / 1e9  # a kernel that is told not to count shows zeros
