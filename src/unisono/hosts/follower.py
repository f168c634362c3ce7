"""A run on a host that follows the first one, which keeps the run folder, and takes that over if it is lost."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unisono.checkpoint.keeper import Keeper
from unisono.checkpoint.parameters import sha256_of
from unisono.errors import Interrupted, JobError, UnisonoError
from unisono.hosts.group import HostGroup
from unisono.observe.outlet import Outlet
from unisono.observe.progress import Beside, Display
from unisono.observe.run_folder import SOCKET, RunFolder, read_run, this_process
from unisono.runs.ending import conclude, interrupted
from unisono.runs.execution import Execution
from unisono.runs.interrupts import Interrupts
from unisono.runs.observation import FolderObservation
from unisono.runs.recorder import Recorder
from unisono.runs.train import keeper_of
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.rules.request import Request
from unisono.runtime.rules.shutdown import Shutdown
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.model_state import ModelState
from unisono.runtime.supervisor.outcome import Outcome
from unisono.settings import Settings

MOST_RECENT = 4096


@dataclass(kw_only=True)
class FollowerObservation(FolderObservation):
    """The watcher of such a run. It keeps nothing, but counts evaluations as host 0 does, to end where that one does.

    Attributes:
        successor: makes the watcher that keeps the run folder, once this host is the first.
        kept: that watcher.
        recent: the last records, of which the run folder may lack some when the first host is lost.
    """

    successor: Callable[[Keeper], Recorder]
    kept: Recorder | None = None
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_RECENT))

    def __post_init__(self) -> None:
        self._hold(Outlet, "this host's folder")

    def described(self, described: Described) -> None:
        """See `Watcher`."""
        self.display.start(described.program.steps, self.job.epochs, described.layout.shape.slots)

    def record(self, record: dict[str, Any]) -> None:
        """See `Watcher`."""
        if self.kept is not None:
            self.kept.record(record)
            return
        record.pop("events", None)
        if record:
            self.recent.append(record)
            self.display.update(record)
        if record and "loss" not in record:
            self.keeper.evaluated(record)

    def copy(self, described: Described, state: ModelState, rounds: int) -> bool:
        """See `Watcher`."""
        if self.kept is not None:
            return self.kept.copy(described, state, rounds)
        self.keeper.pass_over()
        return not self.keeper.exhausted

    def copy_wanted(self) -> bool:
        """See `Watcher`."""
        return self.kept is not None and self.kept.copy_wanted()

    def joined(self, host: int, described: Described, state: HostState, rounds: int) -> None:
        """Take the run folder over where this host is the first.

        Raises:
            JobError: it has checkpoints, and the hosts know nothing of them.
        """
        if host == 0 and self.kept is None:
            if rounds == 0 and self.keeper.has_written:
                raise JobError(
                    "the host that was to read the run's checkpoint was lost before the run went on. Resume it again."
                )
            self.kept = self.successor(self.keeper)
            self.kept.take_over(described, state, rounds, self.recent, self.folder.path / SOCKET)
            self.message(f"host {self.host}keeps the run folder {self.kept.folder.path} from here on")
            self.display = self.kept.display
            self.display.start(described.program.steps, self.job.epochs, described.layout.shape.slots)


def follow(
    execution: Execution, request: Request, folder: RunFolder, display: Display, settings: Settings,
    group: HostGroup, path: Path,
) -> bool:  # fmt: skip
    """Train a job as host 0 of the run does.

    Returns:
        Whether this host has left, and others go on.

    Args:
        execution, request, settings: as in `train_in_folder`.
        folder: this host's own.
        display: shows what this host's processes print.
        group: the way to the others.
        path: the run folder, which this host takes over if it becomes the first.

    Raises:
        UnisonoError: it failed, here or on another host.
    """
    started, job, place, name = time.monotonic(), execution.job, group.place, group.place.name
    display = display.display if isinstance(display, Beside) else display
    beside = display if place.driven else Beside(display, name)  # the driver shows one host's progress by itself
    interrupts = Interrupts(settings.max_seconds, folder.interrupted, settings.leaves, execution.since)
    run_folder = RunFolder(path)
    run_folder.fence = group.fence
    keeper = keeper_of(run_folder, settings, job, beside.message)

    def successor(keeper: Keeper) -> Recorder:
        run_folder.fields = read_run(run_folder.path)
        kept = Recorder(
            job, display, interrupts, folder=run_folder, settings=settings, keeper=keeper,
            code=execution.code, request=replace(request, timeline=False), host=f"{name} ", started=started,
            takes_over=True,
        )  # fmt: skip
        run_folder.update(host=name, **this_process())
        return kept

    watcher = FollowerObservation(
        job, beside, interrupts, folder=folder, keeper=keeper, host=f"{name} ", successor=successor
    )
    folder.update(command=sys.argv, exit="running", host=name, error=None, signal=None, **this_process())
    try:
        with interrupts.handled(), execution(request, watcher, group) as outcome:
            if watcher.kept is not None:
                conclude(watcher.kept, outcome)
            _account(folder, outcome, keeper, started, place.replaces)
            return outcome.left
    except Interrupted as stopped:
        seconds = round(time.monotonic() - started, 3)
        folder.update(steps_done=0, seconds=seconds, **_gone(stopped.shutdown, place.replaces))
        return bool(stopped.shutdown and stopped.shutdown.leaves)
    except UnisonoError as error:
        for each in (folder, *([watcher.kept.folder] if watcher.kept else [])):
            if each.fields.get("exit") == "running":
                each.update(exit="failed", error=str(error))
        raise
    finally:
        if watcher.kept is not None:
            watcher.kept.close()
        folder.release()
        display.close()


def _account(folder: RunFolder, outcome: Outcome, keeper: Keeper, started: float, replaced: bool) -> None:
    """Say in this host's folder how the run ended.

    Raises:
        JobError: it failed.
    """
    values: dict[str, Any] = {"steps_done": outcome.steps_done, "seconds": round(time.monotonic() - started, 3)}
    if outcome.failure is not None:
        folder.update(**values, exit="failed", error=outcome.failure.message)
        raise JobError(outcome.failure.message, outcome.failure.traceback)
    if outcome.consistent and not outcome.left:
        values["parameters_sha256"] = sha256_of(outcome.state.saved(outcome.steps_done))
    over = outcome.complete or keeper.exhausted
    folder.update(**values, **({"exit": "completed"} if over else _gone(outcome.shutdown, replaced)))


def _gone(shutdown: Shutdown | None, replaced: bool) -> dict[str, Any]:
    """What run.json says of a host that was told to go, or of a run that was asked to stop.

    Args:
        shutdown: why.
        replaced: whether the launcher starts another host in place of one that says that it was interrupted.
    """
    found = interrupted(shutdown)
    return {**found, "exit": "left"} if shutdown is not None and shutdown.leaves and not replaced else found
