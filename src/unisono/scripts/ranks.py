"""Who has started a script: several processes of it are refused, for workers are the script's own."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Event

from unisono.errors import UsageError
from unisono.hosts.launchers import place
from unisono.values.text import excerpt

_COUNTS = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")

ONLY_RANK = Event()
"""Set in a process that is the only rank, whatever it sets itself (see `unisono run`)."""


def launched(variables: Mapping[str, str], hostname: str) -> str:
    """What a launcher has set that started several processes of this; empty where none has.

    Args:
        variables: this process's.
        hostname: what this machine calls itself.

    >>> launched({"PMI_RANK": "1", "PMI_SIZE": "2"}, "here"), launched({"RANK": "0", "WORLD_SIZE": "1"}, "here")
    ("PMI_SIZE='2'", '')
    """
    try:
        found = place(variables, hostname)
        if found is None or found.hosts == 1:
            return ""
    except UsageError:  # several on one host, or variables that contradict each other
        pass
    counts = [f"{name}={excerpt(variables[name])}" for name in _COUNTS if name in variables]
    return ", ".join(counts) or "the variables"


def refuse_ranks(received: str) -> None:
    """Refuse a script with parallel calls that is one of several ranks.

    Args:
        received: what says so; empty = nothing does.

    Raises:
        UsageError: it is one.
    """
    if received and not ONLY_RANK.is_set():
        raise UsageError(
            f"a script with unisono.parallel is one process with workers of its own; received {received} from a "
            "launcher. Start it as python script.py, or unisono run script.py --workers N; a Job trains on several "
            "hosts (docs/hosts.md)."
        )
