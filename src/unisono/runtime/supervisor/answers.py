"""Waiting for the process that holds the job: before the run begins as long as it takes, with a word every ten seconds;
then with patience, as with workers."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from unisono.runtime.processes.stacks import STACK_SECONDS, Asked, place_in
from unisono.runtime.rules.stalls import Patience, patience_after
from unisono.runtime.supervisor.delays import Delays

SAY_SECONDS = 10.0
SET_UP = ("take", "print_to", "prepare", "write", "attend")
"""What is asked of a process that is to hold a job: `stall_seconds` is not about these."""
SUCCEED = "succeed"
"""All of that at once."""


class Silence(Exception):
    """It makes no progress; the text says where, if it tells."""


def readable(file: int, seconds: float | None) -> bool:
    """Whether something can be read from a file, or becomes so in time; None = however long that takes.

    By `poll`: `select` takes no descriptor from 1024 on.
    """
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


@dataclass
class _Wait:
    """For one answer: what was asked of whom, since when; whether it was asked for its stack meanwhile."""

    verb: str
    process: int
    stacks: int
    patience: Patience
    began: float = field(default_factory=time.monotonic)
    delays: Delays = field(default_factory=Delays)
    due: float = SAY_SECONDS
    asked: Asked | None = None

    def __post_init__(self) -> None:
        self.looked = self.began


class Answers:
    """Looks after what one process is asked.

    Attributes:
        say: hears what a person who waits should know.
        interrupted: whether nobody wants the answer any more.
        stall_seconds: see `Stalls`; of what is asked at work.
        is_patient: whether it takes as long as it takes.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.interrupted: Callable[[], bool] = lambda: False
        self.stall_seconds: float | None = None
        self.is_patient = True
        self._longest: dict[str, float] = {}
        self._wait: _Wait

    def begin(self, verb: str, process: int, stacks: int) -> None:
        """Something has been asked.

        Args:
            verb: what.
            process: of whom.
            stacks: see `Asked`.
        """
        self._wait = _Wait(verb, process, stacks, Patience(self._limit(verb)))

    def end(self) -> None:
        """The answer has come."""
        wait = self._wait
        self._longest[wait.verb] = max(self._longest.get(wait.verb, 0.0), time.monotonic() - wait.began)

    def look(self) -> None:
        """Look at who has not answered yet.

        Raises:
            Silence: patience is over.
        """
        wait, now = self._wait, time.monotonic()
        elapsed, wait.looked = now - wait.looked, now
        if self.is_patient:
            self._news(now - wait.began)
        elif wait.asked is not None:
            if wait.patience.spend(elapsed):
                called, place = place_in(wait.asked.stack)
                raise Silence(f" ({called}, {place})" if place else "")
        elif wait.patience.spend(elapsed, wait.delays.of(wait.process, elapsed)):
            wait.asked = Asked(wait.process, wait.stacks, goes_on=False)
            wait.patience = Patience(STACK_SECONDS)

    def _limit(self, verb: str) -> float:
        if self.stall_seconds is not None and verb not in (*SET_UP, SUCCEED):
            return self.stall_seconds
        parts = (*SET_UP, SUCCEED) if verb == SUCCEED else (verb,)
        seen = [self._longest[part] for part in parts if part in self._longest]
        return patience_after(sum(seen) if seen else None)

    def _news(self, waited: float) -> None:
        """Ask for the stack every ten seconds, and say at the next look what it tells."""
        wait = self._wait
        if wait.asked is not None:
            if wait.asked.insists():
                return
            called, place = place_in(wait.asked.stack)
            self.say(f"still in {called}, {wait.due:.0f} s{': ' if place else ''}{place}")
            wait.asked, wait.due = None, wait.due + SAY_SECONDS
        elif waited >= wait.due:
            wait.asked = Asked(wait.process, wait.stacks, goes_on=True)
