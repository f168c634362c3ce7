"""Trying until something is there: what is waited for is said, and a signal is answered at once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from unisono.errors import JobError

T = TypeVar("T")

LOOK_SECONDS = 0.1
PAUSE_SECONDS = 0.3
"""Between two tries: longer than between two signs of life of the process that decides."""

SAY_SECONDS = 10.0
"""As often it is said for what is waited."""


class NotYet(Exception):
    """Something is not there, and may be soon; the text says why, as a part of a sentence."""


def until(look: Callable[[], T], seconds: float = math.inf, pause: float = LOOK_SECONDS) -> T:
    """Look again and again until something is there or the time is over; returns what was seen last.

    >>> until(iter([0, 0, 7]).__next__, pause=0.0)
    7
    """
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(pause)
    return found


def retry(attempt: Callable[[], T], what: str, say: Callable[[str], None], seconds: float, way_out: str) -> T:
    """Try again and again, in a thread of its own: a resolver or a network that takes its time holds up no signal.

    Args:
        attempt: raises `NotYet` until it succeeds; what else it raises ends the trying.
        what: who waits for what, as it reads before ": the reason".
        say: hears that every ten seconds.
        seconds: how long to try.
        way_out: what a person may do when it was in vain.

    Returns:
        What the attempt gave.

    Raises:
        JobError: it was in vain.

    >>> retry(lambda: 7, "a host waits for seven", print, 1.0, "Count.")
    7
    """
    future: Future[T] = Future()
    why, over = ["it has not answered yet"], threading.Event()

    def work() -> None:
        while not over.is_set() and not future.done():
            try:
                future.set_result(attempt())
            except NotYet as reason:
                why[0] = str(reason)
                over.wait(PAUSE_SECONDS)
            except BaseException as error:
                future.set_exception(error)

    threading.Thread(target=work, name="unisono-retry", daemon=True).start()
    begun = said = time.monotonic()
    try:
        while (now := time.monotonic()) - begun < seconds:
            if now - said >= SAY_SECONDS:
                said = now
                say(f"{what}: {why[0]}")
            if wait([future], LOOK_SECONDS).done:
                return future.result()
    finally:
        over.set()
    raise JobError(f"{what}: {why[0]}, for {seconds:g} s. {way_out}")
