"""The calls behind the commands: train, start, open, verify, evaluate."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from unisono.checkpoint import store
from unisono.checkpoint.durations import seconds_of
from unisono.checkpoint.keeper import Checkpointing
from unisono.checkpoint.parameters import load
from unisono.cluster.cluster import TIMEOUT_SECONDS, Cluster, Hosts
from unisono.cluster.launchers import place
from unisono.cluster.order import Order
from unisono.cluster.ray import Ray, connected, cpus_of, reserved, sized
from unisono.cluster.ray_driver import Driver, meeting_place
from unisono.errors import JobError, UnisonoError, UsageError
from unisono.execution import Interrupts, Observation, execute
from unisono.following import follow
from unisono.job import Job
from unisono.observe.progress import Display, Silent, display
from unisono.observe.rundir import CHECKPOINTS, RUN, RunFolder, read_run
from unisono.partition.layout import Layout
from unisono.planner.devices import usable_cores
from unisono.platform_check import require_linux
from unisono.run import Run, parameters_file
from unisono.runtime.digest import job_digest
from unisono.runtime.host import pickled
from unisono.runtime.prepare import Described, Request
from unisono.runtime.watcher import raise_failure
from unisono.training import RunSettings, newest, train_in_folder
from unisono.trial import fastest


def request_for(workers: int | None, threads: int, layout: Layout | str | None = None, **more: Any) -> Request:
    """What to ask of this host; workers default to what the layout says, or the usable cores over the threads of each.

    Raises:
        UsageError: fewer than one worker or thread, or a layout that is none.
    """
    require_linux()
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1; received {value}.")
    cores, wanted = usable_cores(), layout_of(layout)
    least = wanted.workers if wanted.data else max(wanted.pipeline, len(cores) // threads)
    return Request(workers or least, threads, cores, wanted, **more)


def layout_of(layout: Layout | str | None) -> Layout:
    """A layout as people write it.

    >>> layout_of("pipeline=2"), layout_of(None)
    (Layout(data=None, pipeline=2), Layout(data=None, pipeline=1))
    """
    return layout if isinstance(layout, Layout) else Layout.parse(layout) if layout else Layout()


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
    layout: Layout | str | None = None,
    recompute: str = "none",
    timeline: bool = False,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    checkpoint_every: int | str | None = None,
    keep: int = 2,
    stall_seconds: float | None = None,
    max_time: str | None = None,
    allow_change: bool = False,
    interface: str | None = None,
    host_timeout: float = TIMEOUT_SECONDS,
    debug: bool = False,
    arguments: Mapping[str, Any] | None = None,
    live: bool = True,
    on: Ray | None = None,
) -> Run:
    """Train a job on this host, or on all hosts on which a launcher has started this, and wait for the end.

    Args:
        job: what to train.
        workers: processes of this host that compute; default: its usable cores. Never changes the result.
        threads: threads of each worker (part of the recorded numerics).
        layout: how the work is split: `Layout(data=2, pipeline=2)`, the same as text, or "auto", which tries what the
            workers allow for a few steps each; default: the data alone. Never changes the result. See docs/layouts.md.
        recompute: "blocks" keeps only what crosses between the model's blocks and computes the rest again for the
            backward pass: less memory, more time, the same result.
        timeline: write `timeline.json` (what every worker did when since this start), which ui.perfetto.dev opens.
        out: the run folder; default runs/job-DATE-TIME.
        resume: the folder of an earlier run to go on with, instead of `out`.
        checkpoint_every: steps (200) or a time ("10m") between checkpoints; one is written at the end anyway.
        keep: how many checkpoints to keep, besides the best one.
        stall_seconds: a worker without progress for so long is replaced; default: adapted to its usual pace.
        max_time: end the run in time ("11h50m") as a signal would: with a checkpoint.
        allow_change: resume although hyperparameters, schedule or microbatches have changed (another result).
        interface: the network interface between hosts; default: the one that leads to where they meet.
        host_timeout: seconds after which a host that is not heard of is lost, and the others go on.
        debug: one process, no live line: breakpoints and profilers work, the bits are the same.
        arguments: what made the job, kept in run.json.
        live: whether to draw a progress line on a terminal.
        on: a Ray cluster to train on, `unisono.Ray(hosts=4, workers_per_host=8)`; this process drives.

    Returns:
        The finished run.

    Raises:
        UsageError: something breaks a rule.
        JobError: the job failed; holds the traceback of the user's code.
    """
    settings = _settings(checkpoint_every, keep, stall_seconds, max_time, allow_change, debug, arguments)
    shown = display(live and not debug)
    if on is not None:
        _check_on_ray(workers, layout, debug)
        wish = partial(_request, job, threads=threads, layout=layout, recompute=recompute, timeline=timeline,
                       settings=settings, shown=shown)  # fmt: skip
        return _train_on_ray(on, job, threads, layout, wish, out, resume, settings, shown, interface, host_timeout)
    request = _request(job, workers, threads, layout, recompute, timeline, settings, shown)
    found = place(os.environ, socket.gethostname())
    if found is None:
        return _prepared(job, request, out, resume, settings, shown)()
    if debug:
        raise UsageError(f"debug runs in one process; {found.launcher} has started {found.hosts} hosts. Start one.")
    return _train_among_hosts(job, request, out, resume, settings, shown, Hosts(found, interface, host_timeout))


def start(
    job: Job,
    *,
    workers: int | None = None,
    threads: int = 1,
    layout: Layout | str | None = None,
    recompute: str = "none",
    timeline: bool = False,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    checkpoint_every: int | str | None = None,
    keep: int = 2,
    stall_seconds: float | None = None,
    max_time: str | None = None,
    allow_change: bool = False,
) -> Run:
    """Train a job in the background; `run.wait()` and `run.stop()` end it.

    Args:
        job and the others: as in `train`.

    Returns:
        The running run, at once.
    """
    settings = _settings(checkpoint_every, keep, stall_seconds, max_time, allow_change, False, None)
    request = _request(job, workers, threads, layout, recompute, timeline, settings, Silent())
    go = _prepared(job, request, out, resume, settings, Silent())
    run = go.run

    def work() -> None:
        try:
            go()
        except BaseException as error:
            run.errors.append(error)

    thread = threading.Thread(target=work, name="unisono", daemon=True)
    run.thread = thread
    thread.start()
    return run


def _settings(
    checkpoint_every: int | str | None, keep: int, stall_seconds: float | None, max_time: str | None,
    allow_change: bool, debug: bool, arguments: Mapping[str, Any] | None,
) -> RunSettings:  # fmt: skip
    if stall_seconds is not None and not stall_seconds > 0:
        raise UsageError(f"stall_seconds must be above 0; received {stall_seconds}.")
    return RunSettings(
        checkpointing=Checkpointing.parse(checkpoint_every, keep),
        stall_seconds=stall_seconds,
        max_seconds=None if max_time is None else seconds_of(max_time, "--max-time"),
        debug=debug,
        arguments=dict(arguments or {}),
        allow_change=allow_change,
    )


@dataclass(frozen=True)
class _Prepared:
    """A run that is ready to go."""

    run: Run
    work: Callable[[], None]

    def __call__(self) -> Run:
        self.work()
        return self.run


def _request(
    job: Job, workers: int | None, threads: int, layout: Layout | str | None, recompute: str, timeline: bool,
    settings: RunSettings, shown: Display,
) -> Request:  # fmt: skip
    if recompute not in ("none", "blocks"):
        raise UsageError(f"recompute must be 'none' or 'blocks'; received {recompute!r}.")
    more: dict[str, Any] = {"recompute": recompute == "blocks"}
    if layout == "auto":
        layout = fastest(_checked(job), request_for(workers, threads, **more), shown.message)
    if settings.debug:
        workers = layout_of(layout).workers
    return request_for(
        workers, threads, layout, **more, timeline=timeline, checkpoint_steps=settings.checkpointing.steps,
        checkpoint_evaluations=_checked(job).best is not None,
    )  # fmt: skip


def _prepared(
    job: Job, request: Request, out: str | Path | None, resume: str | Path | None, settings: RunSettings, shown: Display
) -> _Prepared:
    if out is not None and resume is not None:
        raise UsageError(f"a resumed run goes on in its own folder; received out={out} and resume={resume}.")
    resumed = None
    if resume is not None:
        folder = RunFolder.reopen(Path(resume))
        resumed = newest(folder, shown.message)
    else:
        folder = RunFolder.create(Path(out) if out else default_folder("job"))
        folder.update(exit="running", process=os.getpid())
    request = replace(request, folder=folder.path.absolute())
    work = partial(train_in_folder, job, request, folder, shown, settings, resumed)
    return _Prepared(Run(folder.path, job), work)


def _train_among_hosts(
    job: Job, request: Request, out: str | Path | None, resume: str | Path | None, settings: RunSettings,
    shown: Display, hosts: Hosts,
) -> Run:  # fmt: skip
    """Host 0 keeps the run folder; every other host has one of its own in it (or by its name, on its own disk)."""
    request = replace(request, several_hosts=True)
    where, name = hosts.place, hosts.place.name

    def about(described: Described) -> dict[str, Any]:
        numerics = {**described.layout.description.fingerprint, "threads": str(request.threads)}
        return {"job": job_digest(job, described), "numerics": numerics}

    companions = Cluster(hosts, about)
    path = Path(resume or out or default_folder("job"))
    again = where.restarts + companions.meet() > 0  # here an interrupt still ends it at once
    if where.host:
        folder = RunFolder.of_host(path, name)
        kept = path if where.driven else None  # else the first host serves the store, and its loss ends the run
        follow(job, replace(request, folder=None), folder, shown, settings, companions, name, kept)
        return Run(folder.path, job)
    if again and resume is None and store.steps(path / CHECKPOINTS):
        resume = path
    resumed = None
    if resume is not None:
        folder = RunFolder.reopen(path)
        resumed = newest(folder, shown.message)
    elif where.driven:
        folder = RunFolder.reopen(path)
    else:
        folder = RunFolder(path) if again and (path / RUN).exists() else RunFolder.create(path)
    request = replace(request, folder=folder.path.absolute())
    train_in_folder(job, request, folder, shown, settings, resumed, companions, f"{name} ")
    return Run(folder.path, job)


def _check_on_ray(workers: int | None, layout: Layout | str | None, debug: bool) -> None:
    if workers is not None:
        raise UsageError(
            f"on Ray workers are counted by host; received workers={workers}. Write Ray(workers_per_host={workers}), "
            f"or --workers-per-host {workers}."
        )
    if layout == "auto":
        raise UsageError("layout 'auto' tries layouts on this machine, not on Ray's; name one: data=2,pipeline=2.")
    if debug:
        raise UsageError("debug runs in one process; received a Ray cluster too. Leave one of them out.")


def _train_on_ray(
    on: Ray, job: Job, threads: int, layout: Layout | str | None, wish: Callable[[int], Request],
    out: str | Path | None, resume: str | Path | None, settings: RunSettings, shown: Display, interface: str | None,
    host_timeout: float,
) -> Run:  # fmt: skip
    """Drive hosts that train; what each of them does is `train_as_host`."""
    _checked(job)
    if out is not None and resume is not None:
        raise UsageError(f"a resumed run goes on in its own folder; received out={out} and resume={resume}.")
    path = Path(resume or out or default_folder("job")).absolute()
    split = layout_of(layout)
    interrupts = Interrupts()
    with connected(on) as ray, interrupts.handled():
        least = on.workers_per_host or (split.workers if split.data else None)
        hosts, workers = sized(cpus_of(ray), on.hosts, least, threads)
        place = meeting_place(ray, hosts, interface)
        work = {"job": job, "request": wish(workers), "out": path, "resume": resume and path, "settings": settings}
        order = Order(
            pickled(work), Hosts(place, interface, host_timeout), place.prefix, str(Path.cwd()), own_path(),
            tuple(sys.argv),
        )  # fmt: skip
        folder = RunFolder.reopen(path) if resume else RunFolder.create(path)
        folder.update(key=order.key, exit="running", process=os.getpid(), error=None, signal=None)
        try:
            with reserved(hosts, workers * threads, shown.message, interrupts) as group:
                if group is not None:
                    shown.message(f"{hosts} hosts of Ray's with {workers} workers each; run folder {path}")
                    Driver(ray, group, hosts, workers * threads, order, shown, interrupts).run()
            _account(path, interrupts.received)
        except UnisonoError as error:
            _account(path, interrupts.received, error)
            raise
        finally:
            shown.close()
    return Run(path, job)


def _account(path: Path, number: int | None, error: UnisonoError | None = None) -> None:
    """Say in a driven run's folder how it ended, where no host could.

    Raises:
        JobError: it has not ended, and nobody is left.
    """
    folder = RunFolder.reopen(path)
    if folder.fields["exit"] != "running":
        return
    nothing = {"steps_done": 0, "seconds": 0.0, **folder.fields}
    if number is not None and error is None:
        folder.update(**{**nothing, "exit": "interrupted", "reason": "signal", "signal": number})
        return
    error = error or JobError(
        f"the host that kept the run folder was lost as the run ended, before it had saved the end. Resume {path}."
    )
    folder.update(**{**nothing, "exit": "failed", "error": str(error)})
    raise error


def own_path() -> tuple[str, ...]:
    """Where this process finds modules besides what is installed: a job's folder, PYTHONPATH."""
    installed = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    return tuple(str(Path(entry).resolve()) for entry in sys.path if not entry.startswith(installed))


def train_as_host(work: Mapping[str, Any], hosts: Hosts, key: str, shown: Display) -> None:
    """What one host of a driven run does.

    Args:
        work: job, request, out, resume and settings of the run.
        hosts: this host's place.
        key: what the run folder must say, or it is another folder than the driver's.
        shown: where progress is shown.

    Raises:
        UnisonoError: it failed, here or on another host.
    """
    try:
        is_same = read_run(work["out"]).get("key") == key
    except UsageError:
        is_same = False
    if not is_same:
        raise UsageError(
            f"the run folder lies where every host and the driver see it; host {hosts.place.name} does not see "
            f"{work['out']}. Name a folder on a shared file system with --out."
        )
    cores, asked = usable_cores(), work["request"]
    if (needed := asked.workers * asked.threads) < len(cores):
        cores = cores[: needed - 1]  # Ray may give the others away, and to whom is not known: too few to be pinned to
    request = replace(asked, cores=cores)
    resume = work["resume"]
    _train_among_hosts(
        work["job"], request, None if resume else work["out"], resume, work["settings"], shown, hosts
    )  # fmt: skip


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


def evaluate(
    job: Job,
    directory: str | Path,
    *,
    workers: int | None = None,
    threads: int = 1,
    at: str | int = "final",
    shown: Display | None = None,
) -> dict[str, float]:
    """Evaluate a run's parameters.

    Args:
        job: the job, with `evaluation`.
        directory: the run folder.
        workers, threads: as in `train`.
        at: "final", "best" or the step of a checkpoint.
        shown: where what processes print is shown.

    Returns:
        Name → value, as in evaluation records.

    Raises:
        UsageError: no evaluation data, or no such run.
    """
    if _checked(job).evaluation is None:
        raise UsageError("a job is evaluated on job.evaluation; this job has none. Give it evaluation=.")
    parameters = load(parameters_file(Path(directory), at)).arrays
    interrupts = Interrupts()
    seen = Observation(job, shown or Silent(), interrupts, parameters)
    with interrupts.handled():
        outcome = execute(job, request_for(workers, threads, evaluate_only=True), seen)
    raise_failure(outcome)
    return {name: value for record in seen.records for name, value in record.items() if name != "step"}


def worlds(text: str) -> Sequence[int]:
    """Parse "1,2,4".

    >>> worlds("1,2,4")
    [1, 2, 4]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--workers takes numbers with commas between them (1,2,4); received {text!r}.") from error
