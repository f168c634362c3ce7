"""Training on one of the hosts that a launcher or a driver has started."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from unisono.checkpoint import store
from unisono.errors import JobError, UsageError
from unisono.hosts.account import account_of
from unisono.hosts.early_errors import Heard
from unisono.hosts.follower import follow
from unisono.hosts.group import Cluster, Hosts
from unisono.hosts.place import Place
from unisono.hosts.ports import ports_of
from unisono.hosts.sample_store import Lender
from unisono.observe.progress import Display
from unisono.observe.run_folder import CHECKPOINTS, RunFolder, fresh, read_run, status_of
from unisono.runs.execution import Supervised
from unisono.runs.opening import Start, host_folder, newest, opened
from unisono.runs.train import train_in_folder
from unisono.runtime.preparation.prepare import Described, Request
from unisono.settings import Settings


def hosts_of(place: Place, settings: Settings) -> Hosts:
    """How this process takes part in a run over several hosts.

    Args:
        place: where it stands among them.
        settings: of the run.

    Raises:
        UsageError: there is no such data host, or no such ports.
    """
    ports = None if settings.ports is None else ports_of(settings.ports)
    return Hosts(place, settings.interface, settings.host_timeout, settings.data_host, ports, settings.min_hosts)


def train_among_hosts(
    execution: Supervised, request: Request, path: Path, start: Start, settings: Settings,
    shown: Display, hosts: Hosts,
) -> tuple[Path, bool]:  # fmt: skip
    """Host 0 keeps the run folder; every other host has one of its own in it (or by its name, on its own disk).

    Args:
        execution, request, settings: as in `train_in_folder`.
        path: the run folder; host 0's where the settings name none.
        start: what host 0 does with it; a driver has done it already.
        shown: where progress is shown.
        hosts: how this process takes part.

    Returns:
        This host's run folder, and whether it has left while others go on.

    Raises:
        UnisonoError: it failed, here or on another host.
    """
    request = replace(request, several_hosts=True)

    def account(described: Described) -> dict[str, Any]:
        return account_of(execution.job, described, request.threads, execution.code, execution.arguments)

    companions = Cluster(hosts, account, execution.host.source if hosts.lends else None)
    with companions.telling():
        return _train(companions, execution, request, path, start, settings, shown, hosts)


def _train(
    companions: Cluster, execution: Supervised, request: Request, path: Path, start: Start,
    settings: Settings, shown: Display, hosts: Hosts,
) -> tuple[Path, bool]:  # fmt: skip
    where, name, named = hosts.place, hosts.place.name, settings.names_folder
    try:
        again = companions.meet(shown.message)  # here an interrupt still ends it at once
    except JobError as error:
        gone = where.host and not isinstance(error, Heard)
        if gone and named and start is Start.AUTO and _has_finished(path):
            shown.message(f"finished: host 0 is not there any more, and the run in {path} is done")
            return path, False
        raise
    if where.driven:
        folder, goes_on = RunFolder.reopen(path), start is Start.RESUME
        begun = folder.begun
    elif companions.is_first:
        start = Start.AUTO if again and named and start is Start.NEW else start
        folder, goes_on = opened(path if named else fresh(path), start, shown.message)
        path, begun = folder.path, folder.begun
        companions.begins({"folder": str(path), "begun": begun})
    else:
        told = companions.beginning()
        path, begun = path if named else Path(told["folder"]), told["begun"]
    companions.sees = partial(_holds, path)
    companions.how_to_go_on = partial(_how_to_go_on, path.absolute())
    if hosts.data_host is not None and not hosts.lends:
        lender = Lender(companions.place, companions.address, hosts.timeout, hosts.data_host)
        request = replace(request, change=lender.borrowed)
    if not companions.is_first:
        own = host_folder(path, name, begun)
        left = follow(execution, replace(request, folder=None), own, shown, settings, companions, name, path)
        return own.path, left
    resumed = newest(folder, shown.message) if goes_on else None
    folder.fence = companions.fence
    if not where.driven:  # else the driver has
        folder.update(key=companions.key())
    request = replace(request, folder=folder.path.absolute())
    left = train_in_folder(execution, request, folder, shown, settings, resumed, companions, f"{name} ")
    return folder.path, left


def _holds(path: Path, key: str) -> bool:
    """Whether a folder is that of the run with this key: seen from here, it is."""
    try:
        return read_run(path).get("key") == key
    except UsageError:
        return False


def _has_finished(path: Path) -> bool:
    """Whether a folder is seen from here, and holds a finished run."""
    try:
        return status_of(read_run(path)) == "completed"
    except UsageError:
        return False


def _how_to_go_on(path: Path) -> str:
    """What is left of a run that has ended here, and the way on."""
    found = store.steps(path / CHECKPOINTS)
    left = f"its newest checkpoint here is {store.at(path / CHECKPOINTS, found[-1])}" if found else (
        f"no checkpoint is seen from here in {path}"
    )  # fmt: skip
    return f"What is kept: {left}. Go on: start it again on all hosts with --resume {path}"
