"""What a run's timeline.json says: events by worker and step, and how long a stage had nothing to do."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASSES = ("forward", "backward", "gradient")
"""The last one is both, where the model is not cut."""


@dataclass(frozen=True)
class Event:
    """Something that a worker did.

    Attributes:
        worker: its number.
        name: what: one of `PASSES`, "norms", "update" or "evaluate".
        started, ended: seconds.
        step: counted from 1; what lies between two steps belongs to the first.
        microbatch: its number; None where it is not about one.
    """

    worker: int
    name: str
    started: float
    ended: float
    step: int
    microbatch: int | None


@dataclass(frozen=True)
class Timeline:
    """A timeline that has been read.

    Attributes:
        titles: each worker's.
        events: in the order of their starts.
    """

    titles: dict[int, str]
    events: tuple[Event, ...]

    @property
    def steps(self) -> range:
        """The steps that it holds."""
        found = [event.step for event in self.events if event.name in PASSES]
        return range(min(found), max(found) + 1) if found else range(0)


def read(path: Path) -> Timeline:
    """Read a timeline; one of a killed run may lack its end.

    Args:
        path: timeline.json.
    """
    titles: dict[int, str] = {}
    rows: dict[int, list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        with suppress(ValueError):  # brackets and a torn last line
            entry = json.loads(line.rstrip(","))
            if entry["ph"] == "X":
                rows.setdefault(entry["tid"] - 1, []).append(entry)
            elif entry["name"] == "thread_name":
                titles[entry["tid"] - 1] = entry["args"]["name"]
    events = [event for worker, row in rows.items() for event in _row(worker, row)]
    return Timeline(titles, tuple(sorted(events, key=lambda event: (event.started, event.worker))))


def _row(worker: int, entries: list[dict[str, Any]]) -> list[Event]:
    """A worker's events: a step begins with the first pass after an update."""
    events, step, updated = [], 0, True
    for entry in sorted(entries, key=lambda entry: float(entry["ts"])):
        name, started = entry["name"], entry["ts"] / 1e6
        if name in PASSES and updated:
            step, updated = step + 1, False
        updated = updated or name == "update"
        events.append(Event(worker, name, started, started + entry["dur"] / 1e6, step, entry["args"].get("microbatch")))
    return events


def idle_shares(events: Sequence[Event], first: int) -> tuple[dict[int, float], dict[int, float]]:
    """The share of a step's passes in which each worker of a pipe did none: medians over the steps.

    A step's passes last from the first start to the last end in the whole pipe, so that with passes that are alike the
    share is (p − 1) / (m + p − 1).

    Args:
        events: of the workers of one pipe, in the order of its stages.
        first: the first step that counts.

    Returns:
        The shares, and what they would be with the same passes if nothing were lost between them: each begun as soon as
        its worker and its neighbour's pass have come so far.
    """
    steps: dict[int, dict[int, list[Event]]] = {}
    for event in sorted(events, key=lambda event: event.started):
        if event.name in PASSES and event.step >= first:
            steps.setdefault(event.step, {}).setdefault(event.worker, []).append(event)
    shares: dict[int, list[float]] = {}
    least: dict[int, list[float]] = {}
    for workers in steps.values():
        passes = [event for done in workers.values() for event in done]
        whole = max(event.ended for event in passes) - min(event.started for event in passes)
        shortest = _shortest([workers[worker] for worker in sorted(workers)])
        for worker, done in workers.items():
            busy = sum(event.ended - event.started for event in done)
            shares.setdefault(worker, []).append(1 - busy / whole)
            least.setdefault(worker, []).append(1 - busy / shortest)
    medians = [
        {worker: statistics.median(values) for worker, values in sorted(found.items())} for found in (shares, least)
    ]
    return medians[0], medians[1]


def _shortest(stages: Sequence[Sequence[Event]]) -> float:
    """How long a pipe's passes take, each stage's in its order, if each begins as soon as it can."""
    ended: dict[tuple[int, str, int | None], float] = {}
    now, at = [0.0] * len(stages), [0] * len(stages)
    for _ in range(sum(map(len, stages))):  # at least one of them can begin each time
        for stage, passes in enumerate(stages):
            while at[stage] < len(passes):
                event = passes[at[stage]]
                neighbour = stage - 1 if event.name == "forward" else stage + 1
                given = ended.get((neighbour, event.name, event.microbatch)) if 0 <= neighbour < len(stages) else 0.0
                if given is None:
                    break
                now[stage] = max(now[stage], given) + event.ended - event.started
                ended[stage, event.name, event.microbatch] = now[stage]
                at[stage] += 1
    return max(now)
