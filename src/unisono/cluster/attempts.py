"""Attempts at one run, where a launcher's store outlives them.

torchrun starts a process again without asking the others, and its agents count restarts each for themselves. So no
variable says which processes belong together; the store does. The process that decides opens an attempt, and it alone
keeps that one alive; every other host joins the one that is alive, whether it has just begun or is half done.

    attempts             how many there have been; each one's keys lie under its number
    NUMBER/decides       grows while the process that decides lives
"""

from __future__ import annotations

import time

from unisono.cluster.meeting import START_SECONDS, Store
from unisono.errors import JobError

LOOK_SECONDS = 0.3
"""Longer than the pause between two signs of life of the process that decides."""


def open_attempt(store: Store) -> int:
    """Begin an attempt; its number, from 1."""
    return store.count("attempts", 1)


def find_attempt(store: Store, seconds: float = START_SECONDS) -> int:
    """Wait for an attempt that is alive; its number.

    Args:
        store: where all attempts are.
        seconds: how long to wait.

    Raises:
        JobError: there is none.
    """
    deadline = time.monotonic() + seconds
    number, before = 0, 0
    while time.monotonic() < deadline:
        latest = store.count("attempts")
        now = store.count(f"{latest}/decides") if latest else 0
        if latest == number and now > before > 0:
            return latest
        number, before = latest, now
        time.sleep(LOOK_SECONDS)
    raise JobError(
        f"host 0 decides who belongs to the run; it was not heard of for {seconds:g} s. See what it says, and start "
        "the run again."
    )
