"""Waiting for the process that holds the job: before the run begins as long as it takes, with a word every ten seconds;
then with patience, as with workers."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from unisono.errors import Interrupted
from unisono.runtime.delays import Delays
from unisono.runtime.hangs import LOOK_SECONDS, STACK_SECONDS
from unisono.runtime.stacks import Asked, place_in
from unisono.runtime.stalls import FLOOR_SECONDS, MULTIPLE, UNKNOWN_SECONDS, Patience

SAY_SECONDS = 10.0
SET_UP = ("take", "print_to", "prepare", "write", "attend")
"""What is asked of a process that is to hold a job: `stall_seconds` is not about these."""


class Silence(Exception):
    """It makes no progress; the text says where, if it tells."""


def readable(file: int, seconds: float | None) -> bool:
    """Whether something can be read from a file, or becomes so in time; None = however long that takes.

    By `poll`: `select` takes no descriptor from 1024 on.
    """
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


class Answers:
    """Waits for one process's answers.

    Attributes:
        say: hears what a person who waits should know.
        interrupted: whether nobody wants the answer any more; looked at while waiting.
        stall_seconds: see `Stalls`; of what is asked at work.
        is_patient: whether it takes as long as it takes.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.interrupted: Callable[[], bool] = lambda: False
        self.stall_seconds: float | None = None
        self.is_patient = True
        self._longest: dict[str, float] = {}

    def wait(self, verb: str, process: int, stacks: int, comes: Callable[[float], bool]) -> None:
        """Wait for an answer.

        Args:
            verb: what was asked for.
            process: who was asked.
            stacks: see `Asked`.
            comes: seconds → whether the answer has come; waits so long for it.

        Raises:
            Interrupted: nobody wants it any more.
            Silence: patience is over.
        """
        began = looked = time.monotonic()
        patience, delays, news = Patience(self._limit(verb)), Delays(), self._news(process, stacks)
        while not comes(LOOK_SECONDS):
            if self.interrupted():
                raise Interrupted
            now = time.monotonic()
            if self.is_patient:
                news(now - began)
            elif patience.spend(now - looked, delays.of(process, now - looked)):
                raise Silence(self._where(process, stacks))
            looked = now
        self._longest[verb] = max(self._longest.get(verb, 0.0), time.monotonic() - began)

    def _limit(self, verb: str) -> float:
        if self.stall_seconds is not None and verb not in SET_UP:
            return self.stall_seconds
        return max(FLOOR_SECONDS, MULTIPLE * self._longest[verb]) if verb in self._longest else UNKNOWN_SECONDS

    def _news(self, process: int, stacks: int) -> Callable[[float], None]:
        """(seconds waited) → nothing; every ten seconds asks for the stack, and says at the next look what it tells."""
        asked: list[tuple[float, Asked]] = []
        due = SAY_SECONDS

        def news(waited: float) -> None:
            nonlocal due
            if asked:
                seconds, one = asked.pop()
                called, place = place_in(one.stack)
                self.say(f"still in {called}, {seconds:.0f} s{': ' if place else ''}{place}")
            elif waited >= due:
                asked.append((due, Asked(process, stacks, children=True)))
                due += SAY_SECONDS

        return news

    @staticmethod
    def _where(process: int, stacks: int) -> str:
        asked = Asked(process, stacks, children=False)
        time.sleep(STACK_SECONDS)
        called, place = place_in(asked.stack)
        return f" ({called}, {place})" if place else ""
