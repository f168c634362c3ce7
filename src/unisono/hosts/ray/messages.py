"""What a process that drives a run (Ray's driver) sends to one that is a host of it, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unisono.errors.failure import Failure
from unisono.hosts.place import Place

News = tuple[Any, ...]
"""The name of a method of `Display`, and its arguments."""


@dataclass(frozen=True)
class Order:
    """What a host is to do.

    Attributes:
        work: what `unisono.api` makes of a run's arguments, pickled: it holds the job.
        place: where it stands among the hosts.
        key: what the run folder says of the run, so that the host knows that it sees the same folder.
        folder: where to work, if there is such a folder on the host.
        path: folders of modules that the driver has, to look in where they are on the host too.
        command: the driver's command line.
    """

    work: bytes
    place: Place
    key: str
    folder: str
    path: tuple[str, ...]
    command: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """How a host ended.

    Attributes:
        by_itself: whether it said so; else its process was ended.
        failure: why the run failed, if it did.
        status: the process's exit code.
        left: whether it was told to go, and others go on.
    """

    by_itself: bool
    failure: Failure | None
    status: int = 0
    left: bool = False
