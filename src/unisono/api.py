"""The calls behind the commands: train, start, open, verify, evaluate."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from unisono.checkpoint.files import load
from unisono.checkpoint.parameters import Tensors
from unisono.checkpoint.store import Checkpoint, Standing
from unisono.errors import UnisonoError, UsageError
from unisono.hosts.launchers import place, starts_again
from unisono.hosts.meeting import errors_reported
from unisono.hosts.named_store import meeting_at
from unisono.hosts.place import Place
from unisono.hosts.ray.train import train_on_ray
from unisono.hosts.train import train_among_hosts
from unisono.job import Job
from unisono.observe.progress import Beside, Display, display, quiet
from unisono.observe.run_folder import RunFolder, fresh, read_run
from unisono.runs.execution import Execution, Supervised, held, supervised
from unisono.runs.handle import Run
from unisono.runs.interrupts import Interrupts
from unisono.runs.jobfile import JobFile, LoadedJob, checked, loaded
from unisono.runs.observation import Observation
from unisono.runs.opening import Start, folder_of, newest, opened
from unisono.runs.request import request_of
from unisono.runs.saved import parameters_file
from unisono.runs.train import train_in_folder
from unisono.runs.trial import fastest
from unisono.runtime.preparation.code_files import code_files
from unisono.runtime.preparation.outline import Outline
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.outcome import raise_failure
from unisono.runtime.supervisor.warm_parent_client import WarmParent
from unisono.settings import AUTO, ELSEWHERE, OF_SEVERAL_HOSTS, Settings, by_name
from unisono.values import bounds
from unisono.values.text import excerpt
from unisono.values.typed_json import arguments_written


@by_name(Settings)
def train(job: Job | JobFile, settings: Settings) -> Run:
    """Train a job on this host, or on all hosts on which a launcher has started this, and wait for the end.

    Args:
        job: what to train; the command gives its file instead.
        settings: how, each by its name: `train(job, workers=4)`.

    Returns:
        The finished run.

    Raises:
        UsageError: something breaks a rule (numbers have bounds: `unisono.values.bounds`).
        JobError: the job failed; holds the traceback of the user's code.
    """
    return run(job, settings)


def run(job: Job | JobFile, settings: Settings, host: WarmParent | None = None) -> Run:
    """Train a job and wait for the end; see `train`.

    Args:
        job, settings: what to train, and how.
        host: processes of this host that have been started already, as the command does; closed in the end.
    """
    shown: Display = display(settings.live, settings.debug)
    if settings.on is not None:
        found = loaded(job, travels=True)
        path, start_as = _folder_of(settings)
        made = LoadedJob(found.job, _arguments(settings, found.arguments), code_files())
        return train_on_ray(settings.on, made, settings, path, start_as, shown)
    stands = _place(settings)
    if stands is not None and stands.host:
        shown = Beside(shown, stands.name)
    reporting = errors_reported(stands, settings, shown.message)
    with _held(job, settings, host, shown, reporting) as execution:
        settings = _with_layout(settings, execution, shown)
        if stands is None:
            _check_alone(settings)
            folder, begin = _in_folder(settings, execution.job.best, shown)
            begin(execution)
            return Run(folder.path, job, unwritten=folder.unwritten)
        if not isinstance(execution, Supervised):
            raise UsageError(
                f"debug runs in one process; {stands.launcher} has started {stands.hosts} hosts. Start one."
            )
        path, start_as = _folder_of(settings)
        request = _request(settings, execution.job.best)
        return Run(train_among_hosts(execution, request, path, start_as, settings, shown, stands)[0], job)


def refuse(error: UnisonoError, settings: Settings) -> NoReturn:
    """Raise an error that has come before `run`, after the other hosts have heard of it, if there are any.

    Args:
        error: why there is nothing to train.
        settings: how there was to be.
    """
    with errors_reported(_place(settings), settings, quiet().message):
        raise error


@by_name(Settings)
def start(job: Job, settings: Settings) -> Run:
    """Train a job in the background; `run.wait()` and `run.stop()` end it.

    Args:
        job, settings: as in `train`; what is for several hosts or for one process is refused.

    Returns:
        The running run, at once.

    Raises:
        UsageError: something breaks a rule, or a launcher has started several hosts.
    """
    if (found := place(os.environ, socket.gethostname())) is not None:
        raise UsageError(
            f"start trains on this host alone; {found.launcher} has started {found.hosts} hosts. Call unisono.train, "
            "which trains on all of them."
        )
    for name in (*ELSEWHERE, *OF_SEVERAL_HOSTS):
        if (value := getattr(settings, name)) != getattr(Settings, name):
            raise UsageError(
                f"start trains by processes of this host alone; received {name}={excerpt(value)}. Call unisono.train."
            )
    arguments, shown = _arguments(settings, {}), quiet()
    settings = _with_layout(settings, Execution(checked(job)), shown)
    folder, begin = _in_folder(settings, job.best, shown)
    running = Run(folder.path, job)

    def work() -> None:
        try:
            with supervised(job) as execution:
                begin(replace(execution, arguments=arguments))
        except BaseException as error:
            running.errors.append(error)

    running.thread = threading.Thread(target=work, name="unisono", daemon=True)
    running.thread.start()
    return running


def _place(settings: Settings) -> Place | None:
    """Where this process stands among those that a launcher has started; None where it is the only one."""
    found = place(os.environ, socket.gethostname(), settings.open_ports)
    return found if found is None or settings.store is None else meeting_at(settings.store, found)


def _check_alone(settings: Settings) -> None:
    """Refuse what only several hosts have."""
    if settings.data_host is not None:
        raise UsageError(
            f"data_host is the number of one of several hosts; received {settings.data_host}, and there is one."
        )
    if settings.store is not None:
        raise UsageError(f"several hosts meet at a store; received store={settings.store!r}, and there is one host.")
    if settings.min_hosts is not None and settings.min_hosts > 1:
        raise UsageError(
            f"min_hosts is how many hosts are waited for; received {settings.min_hosts}, and no launcher has started "
            "several. See docs/hosts.md."
        )


@contextmanager
def _held(
    job: Job | JobFile, settings: Settings, host: WarmParent | None, shown: Display,
    reporting: AbstractContextManager[None],
) -> Iterator[Execution]:  # fmt: skip
    """The same for a run; observers, which are functions that run outside workers, are this process's. Ends showing."""
    with closing(shown), reporting:
        if settings.debug:
            since = time.monotonic()
            made = loaded(job, threads=settings.threads)
            yield Execution(made.job, _arguments(settings, made.arguments), since=since)
            return
        with held(job, host, shown.message) as execution:
            if isinstance(job, JobFile) and isinstance(execution.job, Outline) and execution.job.is_observed:
                execution = replace(execution, job=replace(execution.job, load=lambda: job.loaded().job.observers))
            yield replace(execution, arguments=_arguments(settings, execution.arguments))


def _arguments(settings: Settings, of_file: Mapping[str, Any]) -> Mapping[str, Any]:
    """What made the job, as run.json keeps it."""
    return of_file if settings.arguments is None else arguments_written(settings.arguments, {})


def _with_layout(settings: Settings, execution: Execution, shown: Display) -> Settings:
    """The settings with a layout: "auto" is tried out."""
    if settings.layout != AUTO:
        return settings
    tried = nullcontext(execution) if isinstance(execution, Supervised) else supervised(checked(execution.job))
    request = request_of(replace(settings, timeline=False, checkpoint_every=None, debug=False, stall_seconds=None))
    with tried as each:
        return replace(settings, layout=fastest(each, request, shown.message))


def _request(settings: Settings, best: tuple[str, str] | None) -> Request:
    return request_of(settings, checkpoint_evaluations=best is not None)


def _folder_of(settings: Settings) -> tuple[Path, Start]:
    return folder_of(settings, starts_again(os.environ))


def _in_folder(
    settings: Settings, best: tuple[str, str] | None, shown: Display
) -> tuple[RunFolder, Callable[[Execution], bool]]:  # fmt: skip
    """The run folder of this host alone, and what trains in it: from its checkpoint, if it has one."""
    path, start_as = _folder_of(settings)
    request = _request(settings, best)  # which may be refused: before there is a folder
    folder, goes_on = opened(path if settings.names_folder else fresh(path), start_as, shown.message)
    return folder, partial(
        train_in_folder, request=replace(request, folder=folder.path.absolute()), folder=folder,
        display=shown, settings=settings, resumed=newest(folder, shown.message) if goes_on else None,
    )  # fmt: skip


def open(directory: str | Path, job: Job) -> Run:
    """Attach to a finished or running run.

    Args:
        directory: its folder.
        job: the job that it trains.

    Raises:
        UsageError: the folder holds no run.
    """
    path = bounds.folder("a run's directory", directory)
    read_run(path)
    return Run(path, checked(job))


def evaluate(
    job: Job | JobFile,
    directory: str | Path,
    *,
    workers: int | None = None,
    threads: int = 1,
    device: str = AUTO,
    at: str | int = "final",
    shown: Display | None = None,
    host: WarmParent | None = None,
) -> dict[str, float]:
    """Evaluate a run's parameters.

    Args:
        job: the job, with `evaluation`.
        directory: the run folder.
        workers, threads, device: as in `train`.
        at: "final", "best" or the step of a checkpoint.
        shown: where what processes print is shown.
        host: as in `train`.

    Returns:
        Name → value, as in evaluation records.

    Raises:
        UsageError: no evaluation data, no such run, or workers cannot compute on the device here.
    """
    path = bounds.folder("a run's directory", directory)
    request = request_of(Settings(workers=workers, threads=threads, device=device), evaluate_only=True)
    with closing(shown or quiet()) as screen, held(job, host, screen.message) as execution:
        if not execution.job.is_evaluated:
            raise UsageError("a job is evaluated on job.evaluation; this job has none. Give it evaluation=.")
        interrupts = Interrupts()
        saved = Checkpoint(path, Standing(0, False, 1), {}, {}, load(parameters_file(path, at)), Tensors())
        seen = Observation(execution.job, screen, interrupts, saved)
        with interrupts.handled(), execution(request, seen) as outcome:
            raise_failure(outcome)
    return {name: value for record in seen.records for name, value in record.items() if name != "step"}


def worlds(text: str) -> Sequence[int]:
    """Parse "1,2,4".

    >>> worlds("1,2,4")
    [1, 2, 4]
    """
    counts = [bounds.number_in(part.strip()) for part in text.split(",")]
    if None in counts:
        raise UsageError(f"--workers takes numbers with commas between them (1,2,4); received {excerpt(text)}.")
    return [bounds.workers(count) for count in counts]
