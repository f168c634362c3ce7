"""Training on one of the hosts that a launcher or a driver has started."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from unisono.checkpoint import store
from unisono.cluster.account import account_of
from unisono.cluster.cluster import Cluster, Hosts
from unisono.cluster.sample_store import Lender
from unisono.errors import UsageError
from unisono.execution import Supervised
from unisono.following import follow
from unisono.observe.progress import Display
from unisono.observe.rundir import CHECKPOINTS, RUN, RunFolder, fresh, read_run
from unisono.runtime.prepare import Described, Request
from unisono.training import RunSettings, newest, train_in_folder


def train_among_hosts(
    execution: Supervised, request: Request, path: Path, named: bool, resumes: bool, settings: RunSettings,
    shown: Display, hosts: Hosts,
) -> Path:  # fmt: skip
    """Host 0 keeps the run folder; every other host has one of its own in it (or by its name, on its own disk).

    Returns:
        This host's run folder.

    Args:
        execution, request, settings: as in `train_in_folder`.
        path: the run folder.
        named: whether the caller has named it; else it is host 0's.
        resumes: whether to go on from its newest checkpoint.
        shown: where progress is shown.
        hosts: how this process takes part.

    Raises:
        UnisonoError: it failed, here or on another host.
    """
    request = replace(request, several_hosts=True)
    where, name = hosts.place, hosts.place.name

    def account(described: Described) -> dict[str, Any]:
        return account_of(execution.job, described, request.threads, settings.code, settings.arguments)

    companions = Cluster(hosts, account, execution.host.source if hosts.lends else None)
    again = where.restarts + companions.meet(shown.message) > 0  # here an interrupt still ends it at once
    path = path if named else companions.folder(fresh(path) if companions.is_first else path)
    companions.sees = partial(_holds, path)
    companions.how_to_go_on = partial(_how_to_go_on, path.absolute())
    if hosts.data_host is not None and not hosts.lends:
        lender = Lender(companions.place, companions.address, hosts.timeout, hosts.data_host)
        request = replace(request, change=lender.borrowed)
    if not companions.is_first:
        folder = RunFolder.of_host(path, name)
        follow(execution, replace(request, folder=None), folder, shown, settings, companions, name, path)
        return folder.path
    resumed = None
    if resumes or (again and store.steps(path / CHECKPOINTS)):
        folder = RunFolder.reopen(path)
        resumed = newest(folder, shown.message)
    elif where.driven:
        folder = RunFolder.reopen(path)
    else:
        folder = RunFolder(path) if again and (path / RUN).exists() else RunFolder.create(path)
    folder.fence = companions.fence
    if not where.driven:  # else the driver has
        folder.update(key=companions.key())
    request = replace(request, folder=folder.path.absolute())
    train_in_folder(execution, request, folder, shown, settings, resumed, companions, f"{name} ")
    return folder.path


def _holds(path: Path, key: str) -> bool:
    """Whether a folder is that of the run with this key: seen from here, it is."""
    try:
        return read_run(path).get("key") == key
    except UsageError:
        return False


def _how_to_go_on(path: Path) -> str:
    """What is left of a run that has ended here, and the way on."""
    found = store.steps(path / CHECKPOINTS)
    left = f"its newest checkpoint here is {store.at(path / CHECKPOINTS, found[-1])}" if found else (
        f"no checkpoint is seen from here in {path}"
    )  # fmt: skip
    return f"What is kept: {left}. Go on: start it again on all hosts with --resume {path}"
