"""Training on one of the hosts that a launcher or a driver has started."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from unisono.errors import JobError
from unisono.hosts.account import account_of
from unisono.hosts.early_errors import FailedElsewhere
from unisono.hosts.follower import follow
from unisono.hosts.group import HostGroup
from unisono.hosts.meeting import Meeting
from unisono.hosts.place import Place
from unisono.hosts.sample_store import DataHost
from unisono.hosts.shared_folder import has_finished
from unisono.observe.progress import Display
from unisono.observe.run_folder import RunFolder, fresh
from unisono.runs.execution import Supervised
from unisono.runs.opening import Start, host_folder, newest, opened
from unisono.runs.train import train_in_folder
from unisono.runtime.rules.request import Request
from unisono.settings import Settings


def train_among_hosts(
    execution: Supervised, request: Request, path: Path, start: Start, settings: Settings,
    shown: Display, place: Place,
) -> tuple[Path, bool]:  # fmt: skip
    """Host 0 keeps the run folder; every other host has one of its own in it (or by its name, on its own disk).

    Args:
        execution, request, settings: as in `train_in_folder`.
        path: the run folder; host 0's where the settings name none.
        start: what host 0 does with it; a driver has done it already.
        shown: where progress is shown.
        place: where this process stands among the hosts.

    Returns:
        This host's run folder, and whether it has left while others go on.

    Raises:
        UnisonoError: it failed, here or on another host.
    """
    named = settings.names_folder
    data_host = settings.data_host
    place.check(data_host)
    meeting, name, source = Meeting(place, settings), place.name, None
    if data_host == place.host:
        source = execution.host.source
    with meeting.errors_reported():
        try:
            again = meeting.come(shown.message)  # here an interrupt still ends it at once
        except JobError as error:
            gone = place.host and not isinstance(error, FailedElsewhere)
            if gone and named and start is Start.AUTO and has_finished(path):
                shown.message(f"finished: host 0 is not there any more, and the run in {path} is done")
                return path, False
            raise
        start = Start.AUTO if again and named and start is Start.NEW else start
        folder, path, begun, goes_on = _begun(meeting, path, named, start, shown)
        request = replace(request, several_hosts=True)
        if data_host is not None and data_host != place.host:
            there = DataHost(meeting.run_store, data_host)
            request = replace(request, change=there.with_remote_data)
        group = HostGroup(meeting, partial(account_of, execution, request.threads), path, source)
        if folder is None:
            own = host_folder(path, name, begun)
            return own.path, follow(execution, replace(request, folder=None), own, shown, settings, group, path)
        resumed = newest(folder, shown.message) if goes_on else None
        folder.fence = group.fence
        if not place.driven:  # else the driver has
            folder.update(key=meeting.key())
        request = replace(request, folder=folder.path.absolute())
        left = train_in_folder(execution, request, folder, shown, settings, resumed, group, f"{name} ")
        return folder.path, left


def _begun(
    meeting: Meeting, path: Path, named: bool, start: Start, shown: Display
) -> tuple[RunFolder | None, Path, str, bool]:
    """The run folder, where this host keeps it; its path; when the run in it was begun, and whether that goes on."""
    if meeting.place.driven:
        folder, goes_on = RunFolder.reopen(path), start is Start.RESUME
    elif meeting.is_first:
        folder, goes_on = opened(path if named else fresh(path), start, shown.message)
        meeting.begin({"folder": str(folder.path), "begun": folder.begun})
    else:
        found = meeting.beginning()
        return None, path if named else Path(found["folder"]), found["begun"], False
    return folder if meeting.is_first else None, folder.path, folder.begun, goes_on
