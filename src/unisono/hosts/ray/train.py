"""Training on a Ray cluster: what the driver does, and what each host does that it has Ray start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unisono.errors import JobError, UnisonoError, UsageError
from unisono.hosts.group import Hosts
from unisono.hosts.ray.cluster import Ray, connected, cpus_of, driver_node, reserved, sized
from unisono.hosts.ray.driver import Driver, meeting_place
from unisono.hosts.ray.messages import Order
from unisono.hosts.train import train_among_hosts
from unisono.job import Job
from unisono.machine.devices import usable_cores
from unisono.observe.progress import Display
from unisono.observe.run_folder import RunFolder, read_run, this_process
from unisono.runs.execution import Interrupts, supervised
from unisono.runs.handle import Run
from unisono.runs.opening import Start, opened
from unisono.runs.train import RunSettings
from unisono.runtime.preparation.prepare import Request
from unisono.runtime.processes.source import packed


def train_on_ray(
    on: Ray, job: Job, threads: int, least: int | None, wish: Callable[[int], Request], path: Path, start: Start,
    settings: RunSettings, shown: Display, interface: str | None, host_timeout: float, data_host: int | None,
    ports: range | None,
    min_hosts: int | None,
) -> Run:  # fmt: skip
    """Drive hosts that train; what each of them does is `train_as_host`.

    Args:
        on: which cluster, how much of it.
        job, settings: what to train, how.
        threads: of each worker.
        least: workers that the layout needs on each host, or None.
        wish: workers of a host → what is asked of it.
        path: the run folder.
        start: what is to be done with it.
        shown: where progress is shown.
        interface, host_timeout, data_host, ports, min_hosts: see `Hosts`.

    Raises:
        UsageError, JobError: the run failed.
    """
    path = path.absolute()
    interrupts = Interrupts()
    with connected(on) as ray, interrupts.handled():
        hosts, workers = sized(cpus_of(ray), on.hosts, on.workers_per_host or least, threads)
        place = meeting_place(ray, path.name, hosts, interface, ports)
        folder, goes_on = opened(path, start, shown.message)
        start = Start.RESUME if goes_on else Start.NEW
        work = {"job": job, "request": wish(workers), "out": path, "start": start, "settings": settings}
        taking_part = Hosts(place, interface, host_timeout, data_host, ports, min_hosts)
        order = Order(
            packed(work).skeleton, taking_part, place.prefix, str(Path.cwd()), _own_path(), tuple(sys.argv)
        )  # fmt: skip
        nodes = {} if data_host is None else {data_host: driver_node(ray, workers * threads)}
        folder.update(key=order.key)
        if folder.fields.get("exit") != "completed":  # a finished run stays that if no host finds something to do
            folder.update(exit="running", error=None, signal=None, **this_process())
        try:
            with reserved(
                place.prefix, hosts, workers * threads, nodes, shown.message, lambda: interrupts() is not None
            ) as group:
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


def train_as_host(work: Mapping[str, Any], hosts: Hosts, key: str, shown: Display) -> bool:
    """What one host of a driven run does.

    Returns:
        Whether it has left while others go on.

    Args:
        work: job, request, out, start and settings of the run.
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
    with supervised(work["job"]) as execution:
        return train_among_hosts(execution, request, work["out"], True, work["start"], work["settings"], shown, hosts)[
            1
        ]
