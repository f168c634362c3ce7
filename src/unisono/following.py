"""A run on a host that follows host 0: its own log files and an account of how it ended, nothing else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unisono.checkpoint.keeper import Keeper
from unisono.checkpoint.parameters import sha256_of
from unisono.errors import JobError, UnisonoError
from unisono.execution import Interrupts, Observation, execute
from unisono.job import Job
from unisono.observe.logs import LineLog
from unisono.observe.progress import Display
from unisono.observe.rundir import RunFolder
from unisono.runtime.companions import Companions
from unisono.runtime.prepare import Described, Request
from unisono.runtime.state import HostState
from unisono.training import RunSettings


@dataclass
class Following(Observation):
    """The watcher of such a run. It keeps nothing, but counts evaluations as host 0 does, to end where that one does.

    Attributes:
        folder: this host's own.
        keeper: decides as host 0's does; writes nothing.
        name: this host.
    """

    folder: RunFolder = field(kw_only=True)
    keeper: Keeper = field(kw_only=True)
    name: str = field(kw_only=True)

    def described(self, described: Described) -> None:
        """See `Watcher`."""
        self.display.start(described.program.steps, self.job.epochs, described.layout.shape.slots)

    def record(self, record: dict[str, Any]) -> None:
        """See `Watcher`."""
        record.pop("events", None)
        self.display.update(record)
        if record and "loss" not in record:
            self.keeper.evaluated(record)

    def copy(self, described: Described, state: HostState, rounds: int) -> bool:
        """See `Watcher`."""
        return not self.keeper.exhausted

    def memory(self) -> dict[str, Any]:
        """See `Watcher`."""
        return self.keeper.memory()

    def remember(self, memory: dict[str, Any]) -> None:
        """See `Watcher`."""
        self.keeper.remember(memory)

    def log(self, name: str) -> LineLog:
        """See `Watcher`."""
        prefix = "" if name == "host" else f"[{self.name} {name}] "
        return LineLog(self.folder.log(name), prefix, self.display.message)


def follow(
    job: Job, request: Request, folder: RunFolder, display: Display, settings: RunSettings, companions: Companions,
    name: str,
) -> None:  # fmt: skip
    """Train a job as host 0 of the run does.

    Args:
        job, request, settings: as in `train_in_folder`.
        folder: this host's own.
        display: shows what this host's processes print.
        companions: the way to the others.
        name: this host.

    Raises:
        UnisonoError: it failed, here or on another host.
    """
    started = time.monotonic()
    interrupts = Interrupts(settings.max_seconds)
    keeper = Keeper(folder.checkpoints, settings.checkpointing, job.best, job.patience, display.message, _nothing)
    watcher = Following(job, display, interrupts, folder=folder, keeper=keeper, name=name)
    folder.update(command=sys.argv, process=os.getpid(), exit="running", host=name, error=None, signal=None)
    try:
        with interrupts.handled():
            outcome = execute(job, request, watcher, settings.stall_seconds, companions=companions)
    except UnisonoError as error:
        folder.update(exit="failed", error=str(error))
        raise
    finally:
        display.close()
    values: dict[str, Any] = {"steps_done": outcome.steps_done, "seconds": round(time.monotonic() - started, 3)}
    if outcome.failure is not None:
        folder.update(**values, exit="failed", error=outcome.failure.message)
        raise JobError(outcome.failure.message, outcome.failure.traceback)
    if outcome.consistent:
        values["parameters_sha256"] = sha256_of(outcome.state.saved(outcome.steps_done))
    over = outcome.complete or keeper.exhausted
    folder.update(**values, exit="completed" if over else "interrupted", signal=interrupts.received or 2)


def _nothing(best: Mapping[str, Any]) -> None:
    """The best evaluation is kept by host 0."""
