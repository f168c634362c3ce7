"""How tests wait: for a thing, with a limit that only a hang reaches, however slow the machine is.

The only module of the tests that sleeps or looks at a clock (`test_no_time.py`).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

HANG_SECONDS = 300.0
"""How long an idle machine waits for anything before it is a hang."""

LAST_SECONDS = 5.0
"""How long after the last of the processes from which something could come has ended."""

LOOK_SECONDS = 0.01

_watched: list[subprocess.Popen[Any]] = []


def slowness() -> float:
    """How many times slower than idle the machine is now: what wants to run per core, over the share of time in which
    not everything stood still for memory or the disk."""
    minute, _, _, entities, _ = Path("/proc/loadavg").read_text().split()
    wanting = max(float(minute), float(entities.split("/")[0]))
    moving = 1.0 - max(_stalled("memory"), _stalled("io"))
    return max(1.0, wanting / len(os.sched_getaffinity(0))) / max(0.05, moving)


def _stalled(resource: str) -> float:
    """The share of the last ten seconds in which everything waited for a resource; 0 where the kernel doesn't tell."""
    try:
        full = Path(f"/proc/pressure/{resource}").read_text().splitlines()[1]
    except OSError:
        return 0.0
    return float(full.split("avg10=")[1].split()[0]) / 100.0


def scaled(seconds: float) -> float:
    """Seconds that an idle machine may take for something, as many as this one may take now."""
    return seconds * slowness()


def limit() -> float:
    """Seconds for one blocking call: `subprocess.run(…, timeout=limit())`, `process.wait(limit())`."""
    return scaled(HANG_SECONDS)


def watch(process: subprocess.Popen[Any]) -> None:
    """What a test waits for comes from this process, or from others that are watched: without them no wait goes on."""
    _watched.append(process)


def watch_no_more() -> None:
    """The test is over."""
    _watched.clear()


def until(condition: Callable[[], T], what: str = "it is so", hang_seconds: float = HANG_SECONDS) -> T:
    """Wait until a condition is true.

    Args:
        condition: looked at again and again; what it raises ends the wait.
        what: what is waited for, as it reads in "waited in vain until …".
        hang_seconds: how long an idle machine waits for it before it is a hang.

    Returns:
        What the condition gave.

    >>> until(lambda: 7, "seven is true")
    7
    """
    waited, alone, looked = 0.0, 0.0, time.monotonic()
    while not (found := condition()):
        assert waited < hang_seconds, f"waited in vain until {what}"
        assert alone < LAST_SECONDS, f"all processes have ended before {what}: {[each.args for each in _watched]}"
        time.sleep(LOOK_SECONDS)
        now = time.monotonic()
        passed, looked = (now - looked) / slowness(), now
        waited += passed
        alone = alone + passed if _watched and all(each.poll() is not None for each in _watched) else 0.0
    return found
