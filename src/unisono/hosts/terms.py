"""Who decides in a run, and keeps its folder: one host in each *term*; the store says which term it is.

No variable of a launcher's says which processes belong together, or whether the first host lives: a launcher starts a
process again without asking the others. So the store does, where it outlives that host.

    term                 the latest term and its first host's signs of life
    NUMBER/…             a term's own keys (see `meeting`)

Each sign, and each new term, takes the place of a value that is the last one still: so of two that begin a term only
one does, none does after another sign, and a first host that was frozen has no place for its next one.

A term that is silent is followed by another one: of a host that goes on with the run, or, where nobody is left who
could, of a process that begins it anew (from its checkpoint). What is left behind in an old term speaks to nobody.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from enum import Enum

from unisono.errors import JobError
from unisono.hosts.store import START_SECONDS, Store
from unisono.runtime.rules.stalls import LONGEST_TICK_SECONDS

LOOK_SECONDS = 0.3
"""Longer than the pause between two signs of life of the process that decides."""


@dataclass(frozen=True)
class Term:
    """A time in which one process decides.

    Attributes:
        number: counted from 1.
        origin: the term in which the run was begun that goes on in this one.
        by: whose it is.
        seconds: of silence after which it has passed.
        signs: of life, so far.
        over: whether the run has ended in it.
    """

    number: int
    origin: int
    by: str
    seconds: float
    signs: int = 0
    over: bool = False


@dataclass
class Silence:
    """What a process that looks at the store again and again has heard.

    Attributes:
        seen: the latest term, when it looked last.
        heard: whether there had been another sign of it since the look before.
        lasted: for how long there has been none, in which this process could have heard one.

    >>> silence = Silence()
    >>> for signs in (0, 1, 1):
    ...     silence.looked(Term(1, 1, "a", 10.0, signs), 0.5)
    >>> silence.heard, silence.lasted
    (False, 0.5)
    """

    seen: Term | None = None
    heard: bool = False
    lasted: float = 0.0

    def looked(self, latest: Term | None, elapsed: float) -> None:
        """It has looked, so many seconds after it had looked last."""
        seen, self.seen = self.seen, latest
        self.heard = latest != seen is not None and latest is not None and latest.number == seen.number
        self.lasted = self.lasted + min(elapsed, LONGEST_TICK_SECONDS) if latest == seen else 0.0


@dataclass
class Lease:
    """How long the first host can be certain that it is: others wait for so long after its last sign of life.

    It looks at the store again and again. A sign that it finds there and did not find before has come after that look
    had begun, so others, whenever they have found it, wait from then on at least. A process that was frozen knows
    nothing of it, but looks at a clock that was not.

    Attributes:
        seconds: that others wait at least.
        until: when it ends.

    >>> lease = Lease(2.0)
    >>> lease.looked(10.0, found=False)
    >>> lease.looked(11.0, found=True)
    >>> lease.until
    12.0
    """

    seconds: float
    until: float = -math.inf
    _before: float = -math.inf

    def looked(self, began: float, found: bool) -> None:
        """It has looked.

        Args:
            began: when it began to.
            found: whether the term is the latest still, with more signs than at the last look.
        """
        if found:
            self.until = self._before + self.seconds
        self._before = began


class Move(Enum):
    """What a process does next."""

    STAY = "go on as it is"
    WAIT = "look again"
    FOLLOW = "belong to the latest term"
    SUCCEED = "begin the next term and go on with the run"
    BEGIN = "begin the next term and the run anew"
    END = "end: the run is over, or goes on without this process"


def next_move(own: Term | None, latest: Term | None, *, silent: bool, heard: bool, me: str, able: bool) -> Move:
    """What a process does that looks at the store; pure.

    Args:
        own: the term that it belongs to; None = none yet.
        latest: the one that the store names.
        silent: whether that has been silent for its seconds.
        heard: whether a sign of it has just come.
        me: who it is.
        able: whether it can be the first: of a run that it belongs to, as it sees the folder; of a new one, as the
            launcher numbers it 0.

    >>> one, two = Term(1, 1, "a", 10.0), Term(2, 1, "b", 10.0)
    >>> next_move(one, one, silent=True, heard=False, me="b", able=True)
    <Move.SUCCEED: 'begin the next term and go on with the run'>
    >>> next_move(one, two, silent=False, heard=False, me="a", able=True)  # it was frozen
    <Move.END: 'end: the run is over, or goes on without this process'>
    """
    if own is None:
        if latest is None or latest.over or silent:
            return Move.BEGIN if able else Move.WAIT
        return Move.FOLLOW if heard else Move.WAIT
    if latest is None or latest.origin != own.origin or latest.over:
        return Move.END
    if latest.number > own.number:
        return Move.END if own.by == me else Move.FOLLOW
    if not silent or own.by == me:
        return Move.STAY
    return Move.SUCCEED if able else Move.END


def latest_term(store: Store) -> Term | None:
    """The term that the store names."""
    found = store.find("term")
    return None if found is None else Term(**found)


def exchange(store: Store, before: Term | None, after: Term) -> Term:
    """Have a term follow another one, unless the store names a third by now; returns the one that it names then."""
    found = store.exchange("term", None if before is None else asdict(before), asdict(after))
    return Term(**found)


def succeed(store: Store, before: Term, me: str) -> Term:
    """Try to begin the next term of a run; returns the latest."""
    return exchange(store, before, replace(before, number=before.number + 1, by=me, signs=0))


def enter(store: Store, me: str, opens: bool, timeout: float, seconds: float = START_SECONDS) -> Term:
    """Find the term to belong to, or begin one.

    Args:
        store: where all terms are.
        me: who this process is.
        opens: whether it may begin a run.
        timeout: seconds of silence after which a term of this process's has passed.
        seconds: how long to look.

    Raises:
        JobError: there is none.
    """
    looked = began = time.monotonic()
    silence = Silence()
    while True:
        latest = latest_term(store)
        before, looked = looked, time.monotonic()
        silence.looked(latest, looked - before)
        silent = latest is not None and silence.lasted > latest.seconds
        move = next_move(None, latest, silent=silent, heard=silence.heard, me=me, able=opens)
        if move is Move.FOLLOW and latest is not None:
            return latest
        if move is Move.BEGIN:
            number = latest.number + 1 if latest else 1
            if (begun := exchange(store, latest, Term(number, number, me, timeout))).by == me:
                return begun
        if looked - began > seconds:
            raise JobError(
                f"host 0 decides who belongs to the run; it was not heard of for {seconds:g} s. See what it says, and "
                "start the run again."
            )
        time.sleep(LOOK_SECONDS)
