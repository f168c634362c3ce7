"""One run of a job that is compared: by the command, in a process and an environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from unisono.errors import JobError
from unisono.observe.metrics import METRICS, read_metrics
from unisono.observe.run_folder import read_run
from unisono.runs.interrupts import Interrupts
from unisono.runtime.processes.leftovers import COMPARE, temporary_folder
from unisono.runtime.processes.lifeline import die_with_parent
from unisono.values.text import printable
from unisono.values.untrusted import Malformed, check

LOOK_SECONDS = 0.01
WEIGH_SECONDS = 0.1
MOST_WARM_UP = 10
_MANIFEST = {
    "world": {"workers": int}, "job": {"batch_size": int, "microbatches": int}, "fingerprint": {"framework": str},
}  # fmt: skip
_RECORD = {"step_seconds": float, "samples_per_second": float, "loss": float}


@dataclass(frozen=True)
class Contender:
    """A job in an environment.

    Attributes:
        spec: FILE.py or FILE.py:NAME.
        python: the interpreter that trains it.
        name: how tables name it, backend aside.
        backend: Keras's backend, or None for the environment's own choice.
    """

    spec: str
    python: str
    name: str
    backend: str | None = None

    @property
    def file(self) -> str:
        """The job file."""
        return self.spec.partition(":")[0]

    @property
    def label(self) -> str:
        """How tables name it."""
        return f"{self.name} ({self.backend})" if self.backend else self.name


@dataclass(frozen=True)
class Measurement:
    """What one run gave.

    Attributes:
        workers: how many really worked.
        records: of the steps after warm-up.
        start_seconds: from the start of the command until the first step was done.
        peak_bytes: the highest PSS seen over all its processes.
        batch: (batch size, microbatches) of the job.
        framework: its name and version.
    """

    workers: int
    records: Sequence[Mapping[str, float]]
    start_seconds: float
    peak_bytes: int
    batch: tuple[int, int]
    framework: str


def measured_run(job: Contender, workers: int, steps: int, weigh: bool, interrupts: Interrupts) -> Measurement | None:
    """Train a job's first steps by the command, in a session of its own: what a terminal sends reaches it through this
    process only. None when interrupted.

    Raises:
        JobError: it failed.
    """
    command = [job.python, "-m", "unisono", "train", job.spec, "--workers", str(workers), "--steps", str(steps)]
    environment = {**os.environ, **({"KERAS_BACKEND": job.backend} if job.backend else {})}
    with temporary_folder(COMPARE) as folder:
        out, errors = folder / "run", folder / "errors"
        started = time.monotonic()
        with errors.open("w") as file:
            process = subprocess.Popen(
                [*command, "--out", str(out)], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=file, start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid()),
            )  # fmt: skip
        first, peak = _watch(process, out / METRICS, weigh, interrupts)
        if interrupts():
            return None
        if process.returncode:
            said = printable(error_text(errors.read_text(errors="replace")))
            raise JobError(said or f"the command ended with status {process.returncode} and said nothing.")
        return _measurement(out, first - started, peak)


def _watch(process: subprocess.Popen[bytes], metrics: Path, weigh: bool, interrupts: Interrupts) -> tuple[float, int]:
    """Until the process ends: when its first record came, and the highest PSS seen (reading it slows a run)."""
    first, peak, next_weighing, asked = 0.0, 0, 0.0, False
    while process.poll() is None:
        now = time.monotonic()
        if not first and metrics.exists() and metrics.stat().st_size:
            first = now
        if weigh and now >= next_weighing:
            peak, next_weighing = max(peak, _proportional_bytes(process.pid)), now + WEIGH_SECONDS
        if interrupts() and not asked:
            asked = True
            process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_SECONDS)
    return first or time.monotonic(), peak


def _proportional_bytes(pid: int) -> int:
    """PSS of a process and its descendants, where shared pages count once; 0 once it has ended."""
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


def error_text(errors: str) -> str:
    """What a person needs of a failed command's output: from Unisono's own message on, or the last lines.

    >>> error_text("noise" + chr(10) + "unisono: the loss must be finite")
    'the loss must be finite'
    """
    lines = errors.rstrip().splitlines()
    ours = [number for number, line in enumerate(lines) if line.startswith("unisono: ")]
    return "\n".join(lines[ours[-1] :]).removeprefix("unisono: ") if ours else "\n".join(lines[-10:])


def _measurement(out: Path, start_seconds: float, peak: int) -> Measurement:
    """What a run has left, which may be another version's of Unisono.

    Raises:
        JobError: it lacks something.
    """
    try:
        manifest = check(read_run(out), _MANIFEST)
        records = [check(record, _RECORD) for record in read_metrics(out / METRICS) if "loss" in record]
        if not records:
            raise Malformed(f"no step is in {METRICS}")
    except Malformed as error:
        raise JobError(f"the run has ended well, but its folder cannot be read: {error}.") from error
    job, about = manifest["job"], printable(manifest["fingerprint"]["framework"])
    batch, timed = (job["batch_size"], job["microbatches"]), records[min(MOST_WARM_UP, len(records) // 5) :]
    return Measurement(manifest["world"]["workers"], timed, start_seconds, peak, batch, about)
