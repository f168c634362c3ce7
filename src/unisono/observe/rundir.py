"""The run folder: run.json, metrics.jsonl, TensorBoard events, logs and the final parameters."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from unisono.errors import UsageError
from unisono.observe.metrics import plain

RUN, METRICS, PARAMETERS, LOGS, CHECKPOINTS, HOSTS = (
    "run.json",
    "metrics.jsonl",
    "parameters.safetensors",
    "logs",
    "checkpoints",
    "hosts",
)


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


def read_run(path: Path) -> dict[str, Any]:
    """run.json of a folder.

    Raises:
        UsageError: the folder holds no run.
    """
    try:
        return dict(json.loads((path / RUN).read_text()))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"a run folder holds {RUN}; {path} does not ({error}). Name the folder that train printed."
        ) from error
