"""One job's first steps in each situation that must not change a bit: what each of them gave."""

from __future__ import annotations

import os
import signal
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unisono.checkpoint import store
from unisono.checkpoint.parameters import sha256_of
from unisono.checkpoint.store import Checkpoint
from unisono.errors import JobError
from unisono.observe.progress import quiet
from unisono.partition.layout import Layout
from unisono.runs.execution import Execution, Supervised
from unisono.runs.interrupts import Interrupts
from unisono.runs.observation import Observation
from unisono.runs.request import request_of
from unisono.runs.resuming import standing_after
from unisono.runtime.processes.leftovers import VERIFY, temporary_folder
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.outcome import Outcome, raise_failure
from unisono.settings import AUTO, Settings

KILLED_WHILE = ({"microbatch", "backward"}, {"saved", "updated"})
"""The phases of a round in which a worker is killed: it computes; it updates (old values are saved; a replica has
updated, and has not said so)."""


@dataclass(frozen=True)
class World:
    """What one situation gave.

    Attributes:
        name: which situation.
        step_seconds: a step's time, the median.
        parameters_sha256: the result's hash.
        digests: step → a digest of each parameter before it.
        parameters: the parameters' names.
    """

    name: str
    step_seconds: float
    parameters_sha256: str
    digests: Mapping[int, tuple[str, ...]]
    parameters: tuple[str, ...] = field(repr=False, default=())

    @staticmethod
    def of(name: str, outcome: Outcome, records: Sequence[Mapping[str, Any]]) -> World:
        """What a run gave.

        Args:
            name: of the situation.
            outcome: how it ended; its memory is given back.
            records: its steps'.
        """
        with outcome:
            return World(
                name,
                statistics.median(record["step_seconds"] for record in records),
                sha256_of(outcome.state.saved(outcome.steps_done)),
                {record["step"]: tuple(record["digests"]) for record in records},
                tuple(spec.name for spec in outcome.described.layout.description.parameters),
            )


def traced(execution: Execution, request: Request, resumed: Checkpoint | None = None) -> tuple[Outcome, Any]:
    """Run the first steps to their end; returns the outcome and the records.

    Args:
        execution: the job.
        request: of which world, how far.
        resumed: where it begins, or None.

    Raises:
        JobError: the job failed, or somebody interrupted it.
    """
    interrupts = Interrupts()
    with quiet() as shown, interrupts.handled():
        seen = Observation(execution.job, shown, interrupts, resumed)
        outcome = execution(request, seen)
    if not outcome.complete:
        outcome.release()
    raise_failure(outcome)
    if not outcome.complete:
        raise JobError("verify was interrupted.")
    return outcome, seen.records


def first_steps(layout: Layout, steps: int, device: str = AUTO, **more: Any) -> Request:
    """What is asked of a world.

    Args:
        layout: how the work is split.
        steps: how many steps.
        device: what workers compute on.
        more: see `Request`.

    Raises:
        UsageError: they cannot compute on it here.
    """
    settings = Settings(workers=layout.workers, layout=layout, device=device)
    return request_of(settings, trace=True, most_steps=steps, **more)


def undisturbed(execution: Supervised, layout: Layout, name: str, steps: int, device: str = AUTO) -> World:
    """The job in one layout; where a batch has microbatches for fewer workers, its name says for how many."""
    with execution.copied() as copy:
        outcome, records = traced(copy, first_steps(layout, steps, device))
        able = outcome.described.layout.shape.slots
        return World.of(name if able == layout.workers else f"{name} ({able} can work)", outcome, records)


@dataclass(frozen=True)
class Killer:
    """The first worker that comes there ends itself in these rounds as if somebody had: by SIGKILL, once each.

    Attributes:
        folder: where it leaves a note that it has.
        rounds: in which round it is killed while it does what `KILLED_WHILE` names.
    """

    folder: Path
    rounds: tuple[int, int]

    def __call__(self, phase: str, round_: int, slot: int, chunk: int) -> None:
        """See `Request.phase`."""
        for number, (due, phases) in enumerate(zip(self.rounds, KILLED_WHILE, strict=True)):
            if round_ == due and phase in phases and self._claim(number):
                os.kill(os.getpid(), signal.SIGKILL)

    def _claim(self, number: int) -> bool:
        try:
            os.close(os.open(self.folder / str(number), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    @property
    def steps(self) -> list[int]:
        """The steps in which a worker has been killed."""
        return [self.rounds[int(note.name)] + 1 for note in sorted(self.folder.iterdir())]


def killed(execution: Supervised, layout: Layout, name: str, steps: int, device: str = AUTO) -> World:
    """A worker is killed twice: while it computes, and while it updates.

    Raises:
        JobError: nobody was there to be killed.
    """
    with temporary_folder(VERIFY) as folder, execution.copied() as copy:
        killer = Killer(folder, ((steps - 1) // 2, steps // 2))
        world = traced(copy, first_steps(layout, steps, device, phase=killer))
        if len(killer.steps) != len(KILLED_WHILE):
            raise JobError(f"verify wanted to kill a worker twice; it has in steps {killer.steps} alone.")
        return World.of(f"{name}, one killed in steps {' and '.join(map(str, killer.steps))}", *world)


def resumed(
    execution: Supervised, layouts: tuple[Layout, Layout], names: tuple[str, str], steps: int, device: str = AUTO
) -> World:  # fmt: skip
    """The run ends half-way with a checkpoint on disk, and goes on from it in another layout."""
    half = steps // 2
    with temporary_folder(VERIFY) as folder:
        with execution.copied() as copy:
            outcome, before = traced(copy, first_steps(layouts[0], half, device))
        with outcome:
            standing = standing_after(outcome.described, outcome.state, outcome.rounds)
            store.write(folder, standing, {}, {}, outcome.state.saved(half), outcome.state.optimizer(half))
        checkpoint, damage = store.newest_sound(folder)
        if checkpoint is None:
            raise JobError(f"verify could not read its own checkpoint: {damage}")
        with execution.copied() as copy:
            outcome, after = traced(copy, first_steps(layouts[1], steps, device), checkpoint)
        return World.of(f"{names[0]} to step {half}, resumed by {names[1]}", outcome, [*before, *after])


def first_difference(worlds: Sequence[World]) -> tuple[int, str] | None:
    """The first (step, parameter) at which two worlds differ; what is seen before step i+1 was there after step i.

    >>> one = World("one", 0.0, "", {1: ("a", "b"), 2: ("c", "d")}, ("w", "b"))
    >>> two = World("two", 0.0, "", {2: ("c", "e")})
    >>> first_difference([one, two])
    (1, 'b')
    """
    for step in sorted(worlds[0].digests):
        rows = [world.digests.get(step, ()) for world in worlds]
        for index, name in enumerate(worlds[0].parameters):
            if len({row[index] for row in rows if row}) > 1:
                return step - 1, name
    if len({world.parameters_sha256 for world in worlds}) > 1:
        return len(worlds[0].digests), "one of the last step's"
    return None
