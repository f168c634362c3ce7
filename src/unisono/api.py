"""The calls behind the commands: train, start, open, verify, evaluate."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from unisono.checkpoint.files import load
from unisono.checkpoint.keeper import Checkpointing
from unisono.checkpoint.store import Checkpoint
from unisono.errors import UnisonoError, UsageError
from unisono.hosts.early_errors import told
from unisono.hosts.group import TIMEOUT_SECONDS, Hosts
from unisono.hosts.launchers import place, starts_again
from unisono.hosts.named_store import meeting_at
from unisono.hosts.place import Place
from unisono.hosts.ports import ports_of
from unisono.hosts.ray.cluster import Ray
from unisono.hosts.ray.train import train_on_ray
from unisono.hosts.train import train_among_hosts
from unisono.job import Job
from unisono.machine.cores import physical_count
from unisono.machine.devices import usable_cores
from unisono.machine.platform_check import require_linux
from unisono.observe.progress import Beside, Display, display, quiet
from unisono.observe.run_folder import RunFolder, fresh, read_run
from unisono.partition.layout import Layout
from unisono.runs.execution import InProcess, Interrupts, Observation, Supervised, checked, held, supervised
from unisono.runs.handle import Run
from unisono.runs.jobfile import JobFile, LoadedJob
from unisono.runs.opening import AUTO, Start, newest, opened
from unisono.runs.saved import parameters_file
from unisono.runs.train import RunSettings, train_in_folder
from unisono.runs.trial import fastest
from unisono.runtime.preparation.code_files import code_files
from unisono.runtime.preparation.outline import JobFacts, Outline
from unisono.runtime.preparation.prepare import Request
from unisono.runtime.supervisor.outcome import raise_failure
from unisono.runtime.supervisor.warm_parent_client import Host
from unisono.values import bounds
from unisono.values.durations import seconds_of
from unisono.values.text import excerpt
from unisono.values.typed_json import arguments_written


def request_for(workers: int | None, threads: int, layout: Layout | str | None = None, **more: Any) -> Request:
    """What to ask of this host; workers default to what the layout says, or physical cores over the threads of each.

    Raises:
        UsageError: numbers that are none of workers or threads, or a layout that is none.
    """
    require_linux()
    workers, threads = None if workers is None else bounds.workers(workers), bounds.threads(threads)
    cores, wanted = usable_cores(), layout_of(layout)
    least = wanted.workers if wanted.data else max(wanted.pipeline, physical_count(cores) // threads)
    return Request(workers or least, threads, cores, wanted, **more)


def layout_of(layout: Layout | str | None) -> Layout:
    """A layout as people write it.

    >>> layout_of("pipeline=2"), layout_of(None)
    (Layout(data=None, pipeline=2), Layout(data=None, pipeline=1))
    """
    if layout is not None and not isinstance(layout, str | Layout):
        raise UsageError(f"a layout is a unisono.Layout or text such as data=2,pipeline=2; received {excerpt(layout)}.")
    return Layout.parse(layout) if isinstance(layout, str) else layout or Layout()


def _default_folder(name: str) -> Path:
    """runs/NAME-DATE-TIME; who makes it makes it `fresh`."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


@contextmanager
def _trained(
    job: Job | JobFile, debug: bool, threads: int, host: Host | None, shown: Display,
    telling: AbstractContextManager[None],
) -> Iterator[Supervised | InProcess]:  # fmt: skip
    """The same for a run; observers, which are functions that run outside workers, are this process's. Ends showing."""
    if debug:
        with closing(shown), telling:
            since = time.monotonic()
            loaded = job.loaded(threads=threads) if isinstance(job, JobFile) else LoadedJob(checked(job), {})
            yield InProcess(loaded.job, loaded.arguments, since)
        return
    with closing(shown), telling, held(job, host, shown.message) as execution:
        if isinstance(job, JobFile) and isinstance(execution.job, Outline) and execution.job.is_observed:
            execution = replace(execution, job=replace(execution.job, load=lambda: job.loaded().job.observers))
        yield execution


def train(
    job: Job | JobFile,
    *,
    workers: int | None = None,
    threads: int = 1,
    layout: Layout | str | None = None,
    recompute: str = "none",
    timeline: bool = False,
    name: str = "job",
    out: str | Path | None = None,
    resume: str | Path | None = None,
    checkpoint_every: int | str | None = None,
    keep: int = 2,
    stall_seconds: float | None = None,
    max_time: str | None = None,
    allow_change: bool = False,
    interface: str | None = None,
    ports: str | None = None,
    host_timeout: float = TIMEOUT_SECONDS,
    data_host: int | None = None,
    store: str | None = None,
    min_hosts: int | None = None,
    on_signal: str = "leave",
    debug: bool = False,
    arguments: Mapping[str, Any] | None = None,
    live: bool = True,
    on: Ray | None = None,
    host: Host | None = None,
) -> Run:
    """Train a job on this host, or on all hosts on which a launcher has started this, and wait for the end.

    Args:
        job: what to train; the command gives its file instead.
        workers: processes of this host that compute; default: its usable physical cores. Never changes the result.
        threads: threads of each worker (part of the recorded numerics).
        layout: how the work is split: `Layout(data=2, pipeline=2)`, the same as text, or "auto", which tries what the
            workers allow for a few steps each; default: the data alone. Never changes the result. See docs/layouts.md.
        recompute: "blocks" keeps only what crosses between the model's blocks and computes the rest again for the
            backward pass: less memory, more time, the same result.
        timeline: write `timeline.json` (what every worker did when since this start), which ui.perfetto.dev opens.
        name: what the run folder is called where `out` does not say: runs/NAME-DATE-TIME.
        out: the run folder.
        resume: the folder of an earlier run to go on with, instead of `out`. "auto" goes on with the run in `out` if
            there is one that can go on, begins one in an empty folder, and returns a finished one at once.
        checkpoint_every: steps (200) or a time ("10m") between checkpoints; one is written at the end anyway.
        keep: how many checkpoints to keep, besides the best one.
        stall_seconds: a worker without progress for so long is replaced; default: adapted to its usual pace.
        max_time: end the run in time ("11h50m") as a signal would: with a checkpoint.
        allow_change: resume although hyperparameters, schedule or microbatches have changed (another result).
        interface: the network interface between hosts; default: the one that leads to where they meet.
        ports: those on which hosts may listen, "40000-40999", where a firewall closes others; default: any.
        host_timeout: seconds after which a host that is not heard of is lost, and the others go on.
        data_host: the number of the only host that has the data: it reads samples for the others; default: each host
            reads its own.
        store: where hosts meet, "login1:29400", whom `unisono store` serves there; default: as the launcher says.
        min_hosts: with fewer hosts than so many the others wait for more; default: a run begins with all of them, and
            goes on with any number.
        on_signal: what one of several hosts does that is sent SIGTERM, SIGHUP or SIGUSR1: "leave", the others go on; or
            "stop", the run ends with a checkpoint, as it does on Ctrl-C.
        debug: one process, no live line: breakpoints and profilers work, the bits are the same.
        arguments: what made the job, kept in run.json: numbers, text, paths, NumPy's values and what holds them.
        live: whether to draw a progress line on a terminal.
        on: a Ray cluster to train on, `unisono.Ray(hosts=4, workers_per_host=8)`; this process drives.
        host: processes of this host that have been started already, as the command does; closed in the end.

    Returns:
        The finished run.

    Raises:
        UsageError: something breaks a rule (numbers have bounds: `unisono.values.bounds`).
        JobError: the job failed; holds the traceback of the user's code.
    """
    settings = _settings(checkpoint_every, keep, stall_seconds, max_time, allow_change, debug, arguments)
    settings = settings if isinstance(job, JobFile) else replace(settings, code=code_files())
    _check(workers, threads, timeline, name, live=live)
    if interface is not None:
        bounds.name("interface", interface)
    allowed = None if ports is None else ports_of(ports)
    host_timeout = bounds.seconds("host_timeout", host_timeout, least=1)
    if data_host is not None:
        data_host = bounds.whole("data_host", data_host, 0, bounds.MOST_HOSTS)
    if store is not None:
        bounds.name("store", store)
    if min_hosts is not None:
        min_hosts = bounds.whole("min_hosts", min_hosts, most=bounds.MOST_HOSTS)
    bounds.one_of("on_signal", on_signal, ("leave", "stop"))
    settings = replace(settings, leaves=on_signal == "leave")
    shown: Display = display(live, debug)
    if on is not None:
        if not isinstance(on, Ray):
            raise UsageError(f"on must be a unisono.Ray; received {excerpt(on)}. Write on=unisono.Ray().")
        _check_on_ray(workers, layout, debug, store)
        loaded = job.loaded(travels=True) if isinstance(job, JobFile) else LoadedJob(checked(job), {})
        made, settings = loaded.job, replace(settings, code=code_files())
        settings = settings if arguments is not None else replace(settings, arguments=loaded.arguments)
        wish = partial(_request, made, threads=threads, layout=layout, recompute=recompute, timeline=timeline,
                       settings=settings)  # fmt: skip
        path, start_as = _folder_of(name, out, resume)
        path, split = fresh(path) if out is None and resume is None else path, layout_of(layout)
        least = split.workers if split.data else None
        return train_on_ray(on, made, threads, least, wish, path, start_as, settings, shown, interface, host_timeout,
                            data_host, allowed, min_hosts)  # fmt: skip
    found = _standing(allowed, store)
    if found is not None and found.host:
        shown = Beside(shown, found.name)
    telling = told(found, interface, host_timeout, shown.message)
    with _trained(job, debug, threads, host, shown, telling) as execution:
        if arguments is None:
            settings = replace(settings, arguments=execution.arguments)
        layout = _settled(layout, execution, workers, threads, recompute, shown)
        request = _request(execution.job, workers, threads, layout, recompute, timeline, settings)
        if found is None:
            if data_host is not None:
                raise UsageError(
                    f"data_host is the number of one of several hosts; received {data_host}, and there is one."
                )
            if store is not None:
                raise UsageError(f"several hosts meet at a store; received store={store!r}, and there is one host.")
            if min_hosts is not None and min_hosts > 1:
                raise UsageError(
                    f"min_hosts is how many hosts are waited for; received {min_hosts}, and no launcher has started "
                    "several. See docs/hosts.md."
                )
            folder, resumed = _opened(name, out, resume, shown)
            request = replace(request, folder=folder.path.absolute())
            train_in_folder(execution, request, folder, shown, settings, resumed)
            return Run(folder.path, job, unwritten=folder.unwritten)
        if not isinstance(execution, Supervised):
            raise UsageError(f"debug runs in one process; {found.launcher} has started {found.hosts} hosts. Start one.")
        hosts = Hosts(found, interface, host_timeout, data_host, allowed, min_hosts)
        (path, start_as), named = _folder_of(name, out, resume), out is not None or resume is not None
        return Run(train_among_hosts(execution, request, path, named, start_as, settings, shown, hosts)[0], job)


def _standing(ports: range | None, store: str | None) -> Place | None:
    """Where this process stands among those that a launcher has started; None where it is the only one."""
    found = place(os.environ, socket.gethostname(), ports)
    return found if found is None or store is None else meeting_at(store, found)


def refuse(
    error: UnisonoError, interface: str | None, ports: str | None, store: str | None, host_timeout: float
) -> NoReturn:
    """Raise an error that has come before `train`, after the other hosts have heard of it, if there are any.

    Args:
        error: why there is nothing to train.
        interface, ports, store, host_timeout: see `train`.
    """
    with told(
        _standing(None if ports is None else ports_of(ports), store),
        interface,
        bounds.seconds("host_timeout", host_timeout, least=1),
        quiet().message,
    ):
        raise error


def start(
    job: Job,
    *,
    workers: int | None = None,
    threads: int = 1,
    layout: Layout | str | None = None,
    recompute: str = "none",
    timeline: bool = False,
    name: str = "job",
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

    Raises:
        UsageError: something breaks a rule, or a launcher has started several hosts.
    """
    if (found := place(os.environ, socket.gethostname())) is not None:
        raise UsageError(
            f"start trains on this host alone; {found.launcher} has started {found.hosts} hosts. Call unisono.train, "
            "which trains on all of them."
        )
    settings = _settings(checkpoint_every, keep, stall_seconds, max_time, allow_change, False, None)
    settings = replace(settings, code=code_files())
    _check(workers, threads, timeline, name)
    shown = quiet()
    layout = _settled(layout, InProcess(checked(job)), workers, threads, recompute, shown)
    request = _request(job, workers, threads, layout, recompute, timeline, settings)
    folder, resumed = _opened(name, out, resume, shown)
    request = replace(request, folder=folder.path.absolute())
    run = Run(folder.path, job)

    def work() -> None:
        try:
            with supervised(job) as execution:
                train_in_folder(execution, request, folder, shown, settings, resumed)
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
    return RunSettings(
        checkpointing=Checkpointing.parse(checkpoint_every, keep),
        stall_seconds=None if stall_seconds is None else bounds.seconds("stall_seconds", stall_seconds),
        max_seconds=None if max_time is None else seconds_of(max_time, "max_time"),
        debug=bounds.switch("debug", debug),
        arguments=arguments_written(arguments or {}, {}),
        allow_change=bounds.switch("allow_change", allow_change),
    )


def _check(workers: int | None, threads: int, timeline: bool, name: str, live: bool = True) -> None:
    """What can be said of a run's arguments before its job is read."""
    if workers is not None:
        bounds.workers(workers)
    bounds.threads(threads)
    bounds.switch("timeline", timeline)
    bounds.switch("live", live)
    if "/" in bounds.name("name", name):
        raise UsageError(f"a run's name is a part of its folder's, runs/NAME-DATE-TIME; received {name!r}. Use out=.")


def _settled(
    layout: Layout | str | None,
    execution: Supervised | InProcess,
    workers: int | None,
    threads: int,
    recompute: str,
    shown: Display,
) -> Layout | str | None:
    """The layout; "auto" is tried out."""
    if layout != "auto":
        return layout
    request = request_for(workers, threads, recompute=recompute == "blocks")
    if isinstance(execution, Supervised):
        return fastest(execution, request, shown.message)
    with supervised(execution.job) as tried:
        return fastest(tried, request, shown.message)


def _request(
    job: JobFacts, workers: int | None, threads: int, layout: Layout | str | None, recompute: str, timeline: bool,
    settings: RunSettings,
) -> Request:  # fmt: skip
    bounds.one_of("recompute", recompute, ("none", "blocks"))
    if settings.debug:
        workers = layout_of(layout).workers
    return request_for(
        workers, threads, layout, recompute=recompute == "blocks", timeline=timeline,
        checkpoint_steps=settings.checkpointing.steps, checkpoint_evaluations=job.best is not None,
    )  # fmt: skip


def _folder_of(name: str, out: str | Path | None, resume: str | Path | None) -> tuple[Path, Start]:
    """The run folder, and what a start does with it.

    Raises:
        UsageError: two are named, or none where one must be.
    """
    if resume == AUTO:
        if out is None:
            raise UsageError(
                f"resume={AUTO} goes on with the run in the folder that out names, or begins one there; received no "
                f"out. Give --out (a folder of the name {AUTO} is ./{AUTO})."
            )
        return bounds.folder("out", out), Start.AUTO
    if out is not None and resume is not None:
        raise UsageError(f"a resumed run goes on in its own folder; received out={out} and resume={resume}.")
    if resume is not None:
        return bounds.folder("resume", resume), Start.RESUME
    if out is None:
        return _default_folder(name), Start.NEW
    return bounds.folder("out", out), Start.AUTO if starts_again(os.environ) else Start.NEW


def _opened(
    name: str, out: str | Path | None, resume: str | Path | None, shown: Display
) -> tuple[RunFolder, Checkpoint | None]:
    """The run folder, and the checkpoint to go on from."""
    path, start_as = _folder_of(name, out, resume)
    path = fresh(path) if out is None and resume is None else path
    folder, goes_on = opened(path, start_as, shown.message)
    return folder, newest(folder, shown.message) if goes_on else None


def _check_on_ray(workers: int | None, layout: Layout | str | None, debug: bool, store: str | None) -> None:
    if workers is not None:
        raise UsageError(
            f"on Ray workers are counted by host; received workers={workers}. Write Ray(workers_per_host={workers}), "
            f"or --workers-per-host {workers}."
        )
    if layout == "auto":
        raise UsageError("layout 'auto' tries layouts on this machine, not on Ray's; name one: data=2,pipeline=2.")
    if store is not None:
        raise UsageError(f"on Ray the driver serves the store; received store={store!r}. Leave it away.")
    if debug:
        raise UsageError("debug runs in one process; received a Ray cluster too. Leave one of them out.")


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
    at: str | int = "final",
    shown: Display | None = None,
    host: Host | None = None,
) -> dict[str, float]:
    """Evaluate a run's parameters.

    Args:
        job: the job, with `evaluation`.
        directory: the run folder.
        workers, threads: as in `train`.
        at: "final", "best" or the step of a checkpoint.
        shown: where what processes print is shown.
        host: as in `train`.

    Returns:
        Name → value, as in evaluation records.

    Raises:
        UsageError: no evaluation data, or no such run.
    """
    path, request = bounds.folder("a run's directory", directory), request_for(workers, threads, evaluate_only=True)
    with closing(shown or quiet()) as screen, held(job, host, screen.message) as execution:
        if not execution.job.is_evaluated:
            raise UsageError("a job is evaluated on job.evaluation; this job has none. Give it evaluation=.")
        interrupts = Interrupts()
        seen = Observation(execution.job, screen, interrupts, load(parameters_file(path, at)).arrays)
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
