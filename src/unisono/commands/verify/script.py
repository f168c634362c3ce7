"""A script with a training loop of its own: its first backward passes in each situation that must not change a bit."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.commands.run.run import environment
from unisono.commands.verify.script_report import Passes, ScriptReport
from unisono.errors import JobError, UsageError
from unisono.errors.traces import MOST_CHARACTERS, shortened
from unisono.runtime.processes.leftovers import VERIFY, temporary_folder
from unisono.values import bounds
from unisono.values.text import excerpt

WORLDS = (0, 1, 2, 3)
"""Numbers of workers; 0: the script computes the calls itself."""

MOST_DEATHS = 3
"""How many workers are killed in the last situation."""

_LOOK_SECONDS = 0.005


@dataclass(frozen=True)
class Script:
    """What is run in each situation.

    Attributes:
        file: the script's.
        arguments: its own.
        calls: how many backward passes are compared.
    """

    file: str
    arguments: Sequence[str]
    calls: int


def verify_script(file: str, arguments: Sequence[str], calls: int) -> ScriptReport:
    """Run a script's first backward passes on 0, 1, 2 and 3 workers, and on 3 of which some are killed.

    Args:
        file: the script.
        arguments: its own.
        calls: how many backward passes through parallel calls; each run is ended after them.

    Raises:
        UsageError: there is no such script, or it has no such pass.
        JobError: it failed before.
    """
    if not Path(file).is_file():
        raise UsageError(f"verify --calls takes a Python file; received {excerpt(file)}, which is none.")
    script = Script(file, arguments, bounds.whole("calls", calls))
    found = [_passes(script, workers) for workers in WORLDS]
    return ScriptReport((*found, _passes(script, WORLDS[-1], MOST_DEATHS)))


def _passes(script: Script, workers: int, deaths: int = 0) -> Passes:
    """What a run of the script gave until it was ended.

    Args:
        workers: how many.
        deaths: how many of them are killed, soon one after another.
    """
    name = f"{workers} worker{'s' * (workers != 1)}" if workers else "in the script"
    with temporary_folder(VERIFY) as folder:
        hashes = folder / "hashes.jsonl"
        hashes.touch()
        with (folder / "output").open("w+b") as output:
            process = subprocess.Popen(
                [sys.executable, script.file, *script.arguments], env=_environment(workers, hashes),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                killed = _watch(process, hashes, script.calls, deaths)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # with the processes that read its data
                status = process.wait()
            rows = list(_rows(hashes))[: script.calls]
            if len(rows) < script.calls and status:
                output.seek(0)
                raise JobError(
                    f"the script ended with status {status} after {len(rows)} backward passes ({name}).",
                    shortened(output.read().decode(errors="replace").rstrip(), MOST_CHARACTERS),
                )
    if not rows:
        raise UsageError(
            f"verify --calls compares what backward passes through unisono.parallel give; {script.file} has ended "
            "without one. Wrap the model: model = unisono.parallel(model)."
        )
    return Passes.of(f"{name}, {killed} killed" if deaths else name, rows)


def _environment(workers: int, hashes: Path) -> dict[str, str]:
    """What the script finds; what it does not seed is seeded (`on_path/sitecustomize.py`)."""
    told = {"UNISONO_VERIFY_WORKERS": str(workers), "UNISONO_HASHES": str(hashes), "PYTHONHASHSEED": "0"}
    return {**environment(os.environ, platform.node(), None, None), **told}


def _watch(process: subprocess.Popen[bytes], hashes: Path, calls: int, deaths: int) -> int:
    """Wait until a script has made its calls, or ends; kill workers meanwhile. Returns how many were."""
    killed = 0
    while process.poll() is None and (made := _lines(hashes)) < calls:
        if made and killed < deaths and made * deaths >= killed * calls:
            killed += _kill_one(list(_rows(hashes))[-1]["workers"], killed)
        time.sleep(_LOOK_SECONDS)
    return killed


def _kill_one(workers: Sequence[int], number: int) -> bool:
    try:
        os.kill(workers[number % len(workers)], signal.SIGKILL)
    except (ProcessLookupError, ZeroDivisionError):  # it is gone already, or all are
        return False
    return True


def _lines(hashes: Path) -> int:
    return hashes.read_bytes().count(b"\n")


def _rows(hashes: Path) -> Iterator[dict[str, Any]]:
    """What each backward pass wrote, whole lines only."""
    for line in hashes.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)
