"""One run of a job that is compared: by the command, in a process and an environment of its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import psutil

from unisono.errors import JobError
from unisono.observe.metrics import METRICS, read_metrics
from unisono.observe.run_folder import read_run
from unisono.runs.interrupts import Interrupts
from unisono.runtime.processes.leftovers import COMPARE, temporary_folder
from unisono.runtime.processes.lifeline import die_with_parent
from unisono.values.text import printable
from unisono.values.untrusted import Malformed, check

LOOK_SECONDS, WEIGH_SECONDS = 0.01, 0.1
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
        label: how tables name it.
        backend: Keras's backend, or None for the environment's own choice.
    """

    spec: str
    python: str
    label: str
    backend: str | None = None

    @property
    def file(self) -> str:
        """The job file."""
        return self.spec.partition(":")[0]


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


def measured(job: Contender, workers: int, steps: int, weigh: bool, interrupts: Interrupts) -> Measurement | None:
    """Train a job's first steps by the command, in a session of its own: what a terminal sends reaches it through this
    process only. None when interrupted.

    Raises:
        JobError: it failed.
    """
    backend = {} if job.backend is None else {"KERAS_BACKEND": job.backend}
    with temporary_folder(COMPARE) as folder:
        out, errors = folder / "run", folder / "errors"
        command = [job.python, "-m", "unisono", "train", job.spec, "--out", str(out)]
        started, first, peak = time.monotonic(), 0.0, 0
        with errors.open("w") as file:
            process = subprocess.Popen(
                [*command, "--workers", str(workers), "--steps", str(steps)], env=os.environ | backend, stderr=file,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )  # fmt: skip
        while process.poll() is None and not interrupts():
            if not first and (out / METRICS).exists() and (out / METRICS).stat().st_size:
                first = time.monotonic()
            if weigh:  # which slows a run
                peak = max(peak, _proportional_bytes(process.pid))
            with suppress(subprocess.TimeoutExpired):
                process.wait(WEIGH_SECONDS if weigh else LOOK_SECONDS)
        if interrupts():
            process.terminate()
            process.wait()
            return None
        if process.returncode:
            said = printable(error_text(errors.read_text(errors="replace")))
            raise JobError(said or f"the command ended with status {process.returncode} and said nothing.")
        try:
            manifest = check(read_run(out), _MANIFEST)
            records = [check(record, _RECORD) for record in read_metrics(out / METRICS) if "loss" in record]
            if not records:
                raise Malformed(f"no step is in {METRICS}")
        except Malformed as error:  # another version of Unisono
            raise JobError(f"the run has ended well, but its folder cannot be read: {error}.") from error
    return Measurement(
        manifest["world"]["workers"], records[min(MOST_WARM_UP, len(records) // 5) :],
        (first or time.monotonic()) - started, peak,
        (manifest["job"]["batch_size"], manifest["job"]["microbatches"]),
        printable(manifest["fingerprint"]["framework"]),
    )  # fmt: skip


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
    errors = errors.rstrip()
    _, is_ours, text = f"\n{errors}".rpartition("\nunisono: ")
    return text if is_ours else "\n".join(errors.splitlines()[-10:])
