"""The run folder, where a host sees it: on a file system that it shares with the host that keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unisono.checkpoint import store
from unisono.errors import UsageError
from unisono.observe.run_folder import CHECKPOINTS, read_run, status_of


def manifest(path: Path) -> dict[str, Any]:
    """What its run.json says; nothing where it is not seen."""
    try:
        return read_run(path)
    except UsageError:
        return {}


def has_finished(path: Path) -> bool:
    """Whether it is seen, and holds a finished run."""
    found = manifest(path)
    return bool(found) and status_of(found) == "completed"


def how_to_go_on(path: Path) -> str:
    """What is left of a run that has ended here, and the way on."""
    found = store.steps(path / CHECKPOINTS)
    left = f"its newest checkpoint here is {store.at(path / CHECKPOINTS, found[-1])}" if found else (
        f"no checkpoint is seen from here in {path}"
    )  # fmt: skip
    return f"What is kept: {left}. Go on: start it again on all hosts with --resume {path}"
