"""Kill workers of a Unisono job and time the replacements.

python rejoin.py JOB_FILE CASE KILLS FILE

Replaced: the replacement has a seat again (it has rehearsed a gradient). Stall: how much longer the step took in
which the worker died.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from unisono.machine.devices import usable_cores
from unisono.observe.progress import Silent
from unisono.runs.execution import execute
from unisono.runs.jobfile import load
from unisono.runs.observation import Observation
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.outcome import raise_failure

PATIENCE = 60.0


@dataclass
class Seen(Observation):
    """Notes when workers are there and when steps ended."""

    def __post_init__(self) -> None:
        self.alive: list[tuple[float, int]] = []
        self.steps: list[tuple[float, float]] = []

    def record(self, record: dict[str, Any]) -> None:
        """Note a step's end and duration."""
        self.steps.append((time.monotonic(), record["step_seconds"]))

    def workers(self, alive: int) -> None:
        """Note how many workers are there."""
        self.alive.append((time.monotonic(), alive))

    def until(self, both_since: float, steps: int) -> float | None:
        """When both workers were there again and `steps` steps had been done since; None if not in time."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            died = next((at for at, alive in self.alive if at > both_since and alive < 2), None)
            back = next((at for at, alive in self.alive if died and at > died and alive == 2), None)
            if back and sum(at > back for at, _ in self.steps) >= steps:
                return back
            time.sleep(0.01)
        return None


def workers() -> list[psutil.Process]:
    """This run's worker processes."""
    return [child for child in psutil.Process().children(recursive=True) if child.name() == "unisono-worker"]


def main(file: str, case: str, kills: int, out: Path) -> None:
    """Train, kill, write what was seen."""
    over = threading.Event()
    job = replace(load(file, [f"case={case}"]).job, steps=10**6)
    seen = Seen(job, Silent(), over.is_set)
    replaced: list[float] = []
    stalls: list[float] = []

    def killer() -> None:
        deadline = time.monotonic() + PATIENCE
        while len(seen.steps) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        for number in range(kills):
            at = time.monotonic()
            workers()[number % 2].kill()
            back = seen.until(at, 10)
            if back is None:
                break
            replaced.append(back - at)
            usual = statistics.median(seconds for _, seconds in seen.steps)
            stalls.append(max(seconds for done, seconds in seen.steps if done > at) - usual)
        over.set()

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        outcome = execute(job, Request(2, 1, usable_cores()), seen)
    finally:
        thread.join()
    raise_failure(outcome)
    out.write_text(json.dumps({"replaced_seconds": replaced, "stall_seconds": stalls}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
