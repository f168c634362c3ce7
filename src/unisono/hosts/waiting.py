"""Trying until something is there: what is waited for is said, and a signal is answered at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from unisono.errors import JobError

T = TypeVar("T")

LOOK_SECONDS = 0.1
PAUSE_SECONDS = 0.3
"""Between two tries: longer than between two signs of life of the process that decides."""

SAY_SECONDS = 10.0


class NotYet(Exception):
    """Something is not there, and may be soon; the text says why, as a part of a sentence."""


def insist(attempt: Callable[[], T], what: str, say: Callable[[str], None], seconds: float, way_out: str) -> T:
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

    >>> insist(lambda: 7, "a host waits for seven", print, 1.0, "Count.")
    7
    """
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    why, over = ["it has not answered yet"], threading.Event()

    def work() -> None:
        while not over.is_set():
            try:
                done.put((attempt(), None))
                return
            except NotYet as reason:
                why[0] = str(reason)
            except BaseException as error:
                done.put((None, error))
                return
            over.wait(PAUSE_SECONDS)

    threading.Thread(target=work, name="unisono-insist", daemon=True).start()
    begun = said = time.monotonic()
    try:
        while (now := time.monotonic()) - begun < seconds:
            if now - said >= SAY_SECONDS:
                said = now
                say(f"{what}: {why[0]}")
            try:
                found, error = done.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            return found  # type: ignore[return-value]
    finally:
        over.set()
    raise JobError(f"{what}: {why[0]}, for {seconds:g} s. {way_out}")
