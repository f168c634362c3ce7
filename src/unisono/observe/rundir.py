"""The run folder: run.json, metrics.jsonl, TensorBoard events, logs and the final parameters."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from unisono.errors import UsageError
from unisono.machine.processes import birth
from unisono.observe.metrics import plain
from unisono.untrusted import Malformed, Maybe, document

RUN, METRICS, PARAMETERS, LOGS, CHECKPOINTS, HOSTS = (
    "run.json",
    "metrics.jsonl",
    "parameters.safetensors",
    "logs",
    "checkpoints",
    "hosts",
)

_FIELDS = {
    "exit": Maybe(str), "reason": Maybe(str), "error": Maybe(str), "signal": Maybe(int), "process": Maybe(int),
    "process_birth": Maybe(str), "arguments": Maybe(dict), "best": Maybe({"step": int}), "steps_done": Maybe(int),
    "seconds": Maybe(float), "first_step_seconds": Maybe(float), "parameters_sha256": Maybe(str),
    "resumed": Maybe([dict]),
}  # fmt: skip
"""What is read of run.json again, as `check` says it."""


class RunFolder:
    """A folder of one run.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: dict[str, Any] = {}

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make the folder.

        Raises:
            UsageError: it already holds a run, or it cannot be made.
        """
        if (path / RUN).exists():
            raise UsageError(f"an out folder holds one run; {path} already holds one. Name another with --out.")
        try:
            (path / LOGS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the out folder must be writable; received {path}: {error}. Name another with --out."
            ) from error
        return cls(path)

    @classmethod
    def of_host(cls, path: Path, host: str) -> RunFolder:
        """The folder of one of several hosts, within the run's or on a disk of its own.

        Raises:
            UsageError: it cannot be made.
        """
        folder = cls(path / HOSTS / host)
        try:
            (folder.path / LOGS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"every host keeps its logs under --out; {folder.path} cannot be made: {error}."
            ) from error
        return folder

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """The folder of an earlier run, to go on in it.

        Raises:
            UsageError: it holds no run.
        """
        folder = cls(path)
        folder.fields = read_run(path)
        (path / LOGS).mkdir(exist_ok=True)
        return folder

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / CHECKPOINTS

    @property
    def timeline(self) -> Path:
        """What every worker did when, if it was asked for."""
        return self.path / "timeline.json"

    def update(self, **values: Any) -> None:
        """Change fields of run.json, all or nothing; a full disk keeps the old ones, and training goes on."""
        self.fields.update(values)
        aside = self.path / (RUN + ".tmp")
        try:
            aside.write_text(json.dumps(plain(self.fields), indent=2, allow_nan=False) + "\n")
            aside.replace(self.path / RUN)
        except OSError as error:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            print(f"unisono: {self.path / RUN} could not be written: {error}", file=sys.stderr)

    def interrupted(self, number: int) -> None:
        """Say in run.json that this signal has ended the run at once."""
        self.update(exit="interrupted", reason="signal", signal=number)

    @property
    def parameters(self) -> Path:
        """The final parameters' file."""
        return self.path / PARAMETERS

    @property
    def metrics(self) -> Path:
        """The metrics' file."""
        return self.path / METRICS

    def log(self, name: str) -> Path:
        """The log file of a process ("worker 1" → logs/worker-1.log)."""
        return self.path / LOGS / f"{name.replace(' ', '-')}.log"


def this_process() -> dict[str, Any]:
    """The fields of run.json that tell who keeps it: its number, and what tells it from others that had the number."""
    return {"process": os.getpid(), "process_birth": birth(os.getpid())}


def read_run(path: Path) -> dict[str, Any]:
    """run.json of a folder.

    Raises:
        UsageError: the folder holds no run.
    """
    try:
        return document(path / RUN, _FIELDS)
    except Malformed as error:
        raise UsageError(
            f"a run folder holds {RUN}; {path} does not ({error}). Name the folder that train printed."
        ) from error


def status_of(manifest: Mapping[str, Any]) -> str:
    """What became of a run of another process; one whose process has gone without a word has failed."""
    status, process = str(manifest.get("exit") or "failed"), manifest.get("process")
    if status == "running" and (process is None or (birth(process) or "none") != manifest.get("process_birth")):
        return "failed"
    return status


def signal_of(manifest: Mapping[str, Any]) -> int:
    """The signal that has interrupted a run; SIGINT where it does not say."""
    number = manifest.get("signal") or 0
    return number if 0 < number < signal.NSIG else int(signal.SIGINT)
