"""A run in its folder, from the start or resumed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from unisono.checkpoint.keeper import Keeper
from unisono.checkpoint.store import Checkpoint
from unisono.errors import Interrupted, UnisonoError, UsageError
from unisono.observe.progress import Display
from unisono.observe.run_folder import RunFolder, this_process
from unisono.runs.ending import conclude, ended_at_once, interrupted
from unisono.runs.execution import Execution
from unisono.runs.interrupts import Interrupts
from unisono.runs.recorder import Recorder
from unisono.runtime.preparation.outline import JobFacts
from unisono.runtime.processes.leftovers import sweep_temporary
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.other_hosts import Companions
from unisono.settings import Settings
from unisono.version import __version__


def keeper_of(folder: RunFolder, settings: Settings, job: JobFacts, message: Callable[[str], None]) -> Keeper:
    """What keeps the checkpoints of a run.

    Args:
        folder, settings, job: of the run.
        message: says what a person should know.
    """
    return Keeper(
        folder.claim_checkpoints, settings.checkpointing, job.best, job.patience, message,
        lambda best: folder.update(best=dict(best)), fence=folder.fence,
    )  # fmt: skip


def train_in_folder(
    execution: Execution, request: Request, folder: RunFolder, display: Display, settings: Settings,
    resumed: Checkpoint | None = None, companions: Companions | None = None, host: str = "",
) -> bool:  # fmt: skip
    """Train a job and keep its run folder.

    Returns:
        Whether this host has left, and others go on with the folder.

    Args:
        execution, request, settings: what to train and by whom, on what, how.
        folder: the run folder.
        display: shows progress.
        resumed: the checkpoint to go on from, or None.
        companions: the way to other hosts, or None.
        host: this host's name and a blank, where there are several.

    Raises:
        UnisonoError: it failed; run.json says so too.
    """
    job = execution.job
    sweep_temporary()
    keeper = keeper_of(folder, settings, job, display.message)
    at_once = partial(ended_at_once, folder, keeper)
    interrupts = Interrupts(settings.max_seconds, at_once, settings.leaves, execution.since)
    watcher = Recorder(
        job, display, interrupts, folder=folder, settings=settings, keeper=keeper, request=request, code=execution.code,
        resumed=resumed, host=host, started=execution.since,
    )  # fmt: skip
    folder.update(
        unisono=__version__, command=sys.argv, arguments=dict(execution.arguments), job=job.described(),
        exit="running", reason=None, error=None, signal=None, **this_process(),
        settings={"workers": request.workers, "threads": request.threads, "layout": str(request.layout),
                  "recompute": request.recompute, "debug": settings.debug,
                  "checkpointing": asdict(settings.checkpointing)},
    )  # fmt: skip
    try:
        with interrupts.handled(), execution(request, watcher, companions) as outcome:
            conclude(watcher, outcome)
            return outcome.left
    except Interrupted as stopped:
        seconds, step = round(time.monotonic() - watcher.started, 3), resumed.standing.step if resumed else 0
        folder.update(steps_done=step, seconds=seconds, **interrupted(stopped.shutdown))
        return False
    except UnisonoError as error:
        if resumed and not watcher.has_begun and isinstance(error, UsageError):
            folder.put_back(watcher.earlier)  # what is refused changes nothing
        elif folder.fields.get("exit") == "running":
            folder.update(exit="failed", error=str(error))
        raise
    except BaseException as error:
        folder.update(exit="failed", error=repr(error))
        raise
    finally:
        watcher.close()
        display.close()
