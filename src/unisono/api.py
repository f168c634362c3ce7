"""The calls behind the commands: train, start, open, verify, evaluate."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from unisono.checkpoint.parameters import read
from unisono.errors import JobError, UsageError
from unisono.execution import Recorder, execute, run_in_folder
from unisono.job import Job
from unisono.observe.progress import Display, Silent, display
from unisono.observe.rundir import PARAMETERS, RunFolder, read_run
from unisono.planner.devices import usable_cores
from unisono.platform_check import require_linux
from unisono.run import Run
from unisono.runtime.prepare import Request

_STORAGE = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "uint16", "I64": "int64", "I32": "int32",
            "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}  # fmt: skip


def request_for(workers: int | None, threads: int, **more: Any) -> Request:
    """What to ask of this host; workers default to its usable cores over the threads of each.

    Raises:
        UsageError: fewer than one worker or thread.
    """
    require_linux()
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1; received {value}.")
    cores = usable_cores()
    return Request(workers or max(1, len(cores) // threads), threads, cores, **more)


def default_folder(name: str) -> Path:
    """runs/NAME-DATE-TIME."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _checked(job: object) -> Job:
    if not isinstance(job, Job):
        raise UsageError(f"a job is a unisono.Job; received {type(job).__name__}. Call the function that makes it.")
    return job


def train(
    job: Job,
    *,
    workers: int | None = None,
    threads: int = 1,
    out: str | Path | None = None,
    debug: bool = False,
    arguments: Mapping[str, Any] | None = None,
    live: bool = True,
) -> Run:
    """Train a job on this host and wait for the end.

    Args:
        job: what to train.
        workers: processes that compute; default: the usable cores. Never changes the result.
        threads: threads of each worker (part of the recorded numerics).
        out: the run folder; default runs/job-DATE-TIME.
        debug: one process, no live line: breakpoints and profilers work, the bits are the same.
        arguments: what made the job, kept in run.json.
        live: whether to draw a progress line on a terminal.

    Returns:
        The finished run.

    Raises:
        UsageError: something breaks a rule.
        JobError: the job failed; holds the traceback of the user's code.
    """
    request = request_for(1 if debug else workers, threads)
    folder = RunFolder.create(Path(out) if out else default_folder("job"))
    run_in_folder(_checked(job), request, folder, display(live and not debug), debug, dict(arguments or {}))
    return Run(folder.path, job)


def start(job: Job, *, workers: int | None = None, threads: int = 1, out: str | Path | None = None) -> Run:
    """Train a job in the background; `run.wait()` and `run.stop()` end it.

    Args:
        job, workers, threads, out: as in `train`.

    Returns:
        The running run, at once.
    """
    request = request_for(workers, threads)
    folder = RunFolder.create(Path(out) if out else default_folder("job"))
    folder.update(exit="running")
    run: Run

    def work() -> None:
        try:
            run_in_folder(_checked(job), request, folder, Silent(), False, {})
        except BaseException as error:
            run.errors.append(error)

    thread = threading.Thread(target=work, name="unisono", daemon=True)
    run = Run(folder.path, job, thread)
    thread.start()
    return run


def open(directory: str | Path, job: Job) -> Run:
    """Attach to a finished or running run.

    Args:
        directory: its folder.
        job: the job that it trains.

    Raises:
        UsageError: the folder holds no run.
    """
    read_run(Path(directory))
    return Run(Path(directory), _checked(job))


def load_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """A saved file's tensors as arrays (bfloat16 as uint16)."""
    return {
        name: np.frombuffer(data, _STORAGE[dtype]).reshape(shape) for name, (dtype, shape, data) in read(path).items()
    }


def evaluate(
    job: Job,
    directory: str | Path,
    *,
    workers: int | None = None,
    threads: int = 1,
    shown: Display | None = None,
) -> dict[str, float]:
    """Evaluate a run's final parameters.

    Args:
        job: the job, with `evaluation`.
        directory: the run folder.
        workers, threads: as in `train`.
        shown: where what processes print is shown.

    Returns:
        Name → value, as in evaluation records.

    Raises:
        UsageError: no evaluation data, or no such run.
    """
    if _checked(job).evaluation is None:
        raise UsageError("a job is evaluated on job.evaluation; this job has none. Give it evaluation=.")
    arrays = load_arrays(Path(directory) / PARAMETERS)
    recorder = Recorder(job, shown or Silent())
    outcome, _ = execute(job, request_for(workers, threads, evaluate_only=True), recorder, parameters=arrays)
    if outcome.failure:
        raise JobError(outcome.failure.message, outcome.failure.traceback)
    return {name: value for record in recorder.records for name, value in record.items() if name != "step"}


def worlds(text: str) -> Sequence[int]:
    """Parse "1,2,4".

    >>> worlds("1,2,4")
    [1, 2, 4]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--workers takes numbers with commas between them (1,2,4); received {text!r}.") from error
