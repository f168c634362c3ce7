"""The job that a command names, and the process that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisono.runs.jobfile import JobFile
    from unisono.runtime.supervisor.warm_parent_client import WarmParent


def begun(
    file: str, arguments: tuple[str, ...], run_dir: Path | None = None, fields: Mapping[str, Any] | None = None,
    starts: bool = True,
) -> tuple[JobFile, WarmParent | None]:  # fmt: skip
    """A job file, and the process that reads it: what that imports takes longest, so it comes before anything else.

    Args:
        file, arguments, fields: see `JobFile`.
        run_dir: an earlier run, whose arguments are taken where no others are given.
        starts: whether there is to be such a process.
    """
    from unisono.runtime.processes.start import warm_parent

    started = warm_parent() if starts else None
    from unisono.runs.jobfile import JobFile

    job = JobFile.of(file, arguments, fields, arguments_of(run_dir))
    if started is None:
        return job, None
    from unisono.runtime.supervisor.warm_parent_client import WarmParent

    host = WarmParent(started)
    host.begin(job)
    return job, host


def arguments_of(run_dir: Path | None) -> dict[str, Any]:
    """The arguments that an earlier run was made with."""
    from unisono.observe.run_folder import read_run

    return {} if run_dir is None else read_run(run_dir).get("arguments") or {}
