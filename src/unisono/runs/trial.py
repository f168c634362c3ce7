"""The fastest layout of a job on this host, found by trying each for a few steps."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from unisono.errors import JobError, UsageError
from unisono.observe.progress import quiet
from unisono.partition.layout import Layout
from unisono.runs.execution import Supervised
from unisono.runs.interrupts import Interrupts
from unisono.runs.observation import Observation
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.outcome import raise_failure

STEPS = 8
WARM_UP = 3
"""Steps of a trial that are not counted."""


def candidates(workers: int) -> list[Layout]:
    """Every layout that so many workers fill.

    >>> [str(layout) for layout in candidates(4)]
    ['data=4', 'data=2,pipeline=2', 'data=1,pipeline=4']
    """
    return [Layout(workers // stages, stages) for stages in range(1, workers + 1) if workers % stages == 0]


def fastest(execution: Supervised, request: Request, message: Callable[[str], None]) -> Layout:
    """The layout with the shortest steps.

    Args:
        execution: the job, and how it runs; not used up.
        request: workers, threads and whatever else the run will have.
        message: says what was tried.

    Raises:
        JobError, UsageError: the job fails in every layout: the first one's failure.
    """
    bare = replace(request, change=partial(replace, evaluation=None, best=None, patience=None), most_steps=STEPS)
    seconds: dict[Layout, float] = {}
    failures: list[JobError | UsageError] = []
    for layout in candidates(request.workers):
        try:
            seconds[layout] = _step_seconds(execution, replace(bare, layout=layout))
            message(f"layout {layout}: {1e3 * seconds[layout]:.1f} ms a step")
        except (JobError, UsageError) as error:
            failures.append(error)
            message(f"layout {layout} is no choice: {str(error).splitlines()[0]}")
    if not seconds:
        raise failures[0]
    chosen = min(seconds, key=lambda layout: seconds[layout])
    message(f"going on with {chosen}, the fastest")
    return chosen


def _step_seconds(execution: Supervised, request: Request) -> float:
    interrupts = Interrupts()
    with quiet() as shown, interrupts.handled(), execution.copied() as copy:
        seen = Observation(execution.job, shown, interrupts)
        with copy(request, seen) as outcome:
            raise_failure(outcome)
    if not outcome.complete:
        raise KeyboardInterrupt
    steps = [record["step_seconds"] for record in seen.records]
    return float(statistics.median(steps[WARM_UP:] or steps))
