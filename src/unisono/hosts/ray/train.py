"""Training on a Ray cluster: what the driver does, and what each host does that it has Ray start."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unisono.errors import JobError, UnisonoError, UsageError
from unisono.hosts.place import Place
from unisono.hosts.ray.cluster import connected, cpus_of, driver_node, meeting_place, reserved, sized
from unisono.hosts.ray.driver import Driver
from unisono.hosts.ray.messages import Order
from unisono.hosts.shared_folder import manifest
from unisono.hosts.train import train_among_hosts
from unisono.machine.platform_check import require_linux
from unisono.observe.progress import Display
from unisono.observe.run_folder import RunFolder, fresh, this_process
from unisono.runs.execution import supervised
from unisono.runs.handle import Run
from unisono.runs.interrupts import Interrupts
from unisono.runs.jobfile import LoadedJob
from unisono.runs.opening import Start, opened
from unisono.runs.request import request_of
from unisono.runtime.processes.source import packed
from unisono.settings import Ray, Settings


def train_on_ray(on: Ray, made: LoadedJob, settings: Settings, path: Path, start: Start, shown: Display) -> Run:
    """Drive hosts that train; what each of them does is `train_as_host`.

    Args:
        on: which cluster, how much of it.
        made: what to train.
        settings: how.
        path: the run folder.
        start: what is to be done with it.
        shown: where progress is shown.

    Raises:
        UsageError, JobError: the run failed.
    """
    require_linux()
    path, threads, split = path if settings.names_folder else fresh(path), settings.threads, settings.split
    least = on.workers_per_host or (split.workers if split.data else None)
    path = path.absolute()
    interrupts = Interrupts()
    with connected(on) as ray, interrupts.handled():
        hosts, workers = sized(cpus_of(ray), on.hosts, least, threads)
        place = meeting_place(ray, path.name, hosts, settings)
        folder, goes_on = opened(path, start, shown.message)
        start = Start.RESUME if goes_on else Start.NEW
        own = replace(settings, on=None, workers=workers, out=path, resume=None)
        work = {"job": made.job, "arguments": made.arguments, "code": made.code, "start": start, "settings": own}
        place.check(settings.data_host)
        order = Order(
            packed(work).skeleton, place, place.prefix, str(Path.cwd()), _own_path(),
            tuple(sys.argv),
        )  # fmt: skip
        nodes = {} if settings.data_host is None else {settings.data_host: driver_node(ray, workers * threads)}
        folder.update(key=order.key)
        if folder.fields.get("exit") != "completed":  # a finished run stays that if no host finds something to do
            folder.update(exit="running", error=None, signal=None, **this_process())
        try:
            with reserved(
                place.prefix, hosts, workers * threads, nodes, shown.message, lambda: interrupts() is not None
            ) as group:
                if group is not None:
                    shown.message(f"hosts of Ray's: {hosts}, workers on each: {workers}; run folder {path}")
                    Driver(ray, group, workers * threads, order, settings, shown, interrupts).run()
            _account(path, interrupts.received)
        except UnisonoError as error:
            _account(path, interrupts.received, error)
            raise
        finally:
            shown.close()
    return Run(path, made.job)


def _account(path: Path, number: int | None, error: UnisonoError | None = None) -> None:
    """Say in a driven run's folder how it ended, where no host could.

    Raises:
        JobError: it has not ended, and nobody is left.
    """
    folder = RunFolder.reopen(path)
    if folder.fields["exit"] == "interrupted" and number is not None:
        folder.update(reason="signal", signal=number)  # the hosts were not sent that one
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


def _own_path() -> tuple[str, ...]:
    """Where this process finds modules besides what is installed: a job's folder, PYTHONPATH."""
    installed = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    return tuple(str(Path(entry).resolve()) for entry in sys.path if not entry.startswith(installed))


def train_as_host(work: Mapping[str, Any], place: Place, key: str, shown: Display) -> bool:
    """What one host of a driven run does.

    Returns:
        Whether it has left while others go on.

    Args:
        work: job, arguments and code (see `LoadedJob`), settings, and start of the run.
        place: this host's.
        key: what the run folder must say, or it is another folder than the driver's.
        shown: where progress is shown.

    Raises:
        UnisonoError: it failed, here or on another host.
    """
    job, settings = work["job"], work["settings"]
    out = Path(settings.out)
    if manifest(out).get("key") != key:
        raise UsageError(
            f"the run folder lies where every host and the driver see it; host {place.name} does not see "
            f"{out}. Name a folder on a shared file system with --out."
        )
    request = request_of(settings, checkpoint_evaluations=job.best is not None)
    cores = request.cores
    if (needed := request.workers * request.threads) < len(cores):
        cores = cores[: needed - 1]  # Ray may give the others away, and to whom is not known: too few to be pinned to
    with supervised(job) as execution:
        execution = replace(execution, arguments=work["arguments"], code=work["code"])
        request = replace(request, cores=cores)
        return train_among_hosts(execution, request, out, work["start"], settings, shown, place)[1]
