"""Which job trains fastest here: every run is a process of its own, in its own environment, one at a time."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from unisono.commands.comparison import Comparison, Measurement, Turn, code_lines, contenders, counted, turns, worlds
from unisono.errors import JobError, UsageError
from unisono.machine.cores import physical_count
from unisono.machine.devices import usable_cores
from unisono.machine.platform_check import require_linux
from unisono.observe.metrics import METRICS, read_metrics
from unisono.observe.run_folder import read_run
from unisono.runs.execution import Interrupts
from unisono.runs.jobfile import code_of
from unisono.runtime.processes.leftovers import COMPARE, temporary_folder
from unisono.runtime.processes.lifeline import die_with_parent
from unisono.values import bounds
from unisono.values.text import printable
from unisono.values.untrusted import Malformed, check
from unisono.version import __version__

LOOK_SECONDS = 0.01
WEIGH_SECONDS = 0.1
MOST_WARM_UP = 10
_MANIFEST = {
    "world": {"workers": int}, "job": {"batch_size": int, "microbatches": int}, "fingerprint": {"framework": str},
}  # fmt: skip
_RECORD = {"step_seconds": float, "samples_per_second": float, "loss": float}


def compare(
    specs: Sequence[str],
    pythons: Sequence[str] = (),
    backends: str | None = None,
    workers: Sequence[int] | None = None,
    steps: int = 30,
    rounds: int = 3,
    message: Callable[[str], None] = print,
) -> Comparison:
    """Train the first steps of several jobs in turn and measure them.

    Args:
        specs: FILE.py[:NAME] of each job.
        pythons: FILE=PATH: interpreters of jobs that need another environment.
        backends: Keras backends with commas between them, for a single Keras job.
        workers: at how many workers; default: doubled up to the physical cores.
        steps: steps of each run; a fifth of them (10 at most) is left out as warm-up.
        rounds: timed runs of each job at each number of workers.
        message: told of each run.

    Returns:
        The comparison; a job that failed is in its `failures`.

    Raises:
        UsageError: wrong use.
    """
    require_linux()
    jobs = contenders(specs, pythons, backends, sys.executable)
    counts = tuple(map(bounds.workers, worlds(physical_count(usable_cores())) if workers is None else workers))
    steps, rounds = bounds.whole("steps", steps, 2), bounds.whole("rounds", rounds)
    if not counts or len(set(counts)) < len(counts):
        raise UsageError(f"--workers takes different numbers; received {','.join(map(str, counts)) or 'none'}.")
    lines = {job.file: _lines(job.file) for job in jobs}
    for python in dict.fromkeys(job.python for job in jobs):
        _check_interpreter(python)
    found = Comparison(jobs, counts, rounds, lines)
    interrupts = Interrupts()
    with interrupts.handled():
        for turn in turns(jobs, counts, rounds):
            if turn.contender in found.failures:
                continue
            try:
                measured = measure(turn, steps, interrupts)
            except JobError as error:
                found.failures[turn.contender] = (turn.workers, str(error))
                message(f"{turn.contender.label} failed at {counted(turn.workers, 'worker')}; the others go on")
                continue
            if measured is None:
                found.interrupted = interrupts.received
                break
            found.runs.setdefault((turn.contender, turn.workers), []).append(measured)
            message(_told(turn, rounds, measured))
    return found


def _told(turn: Turn, rounds: int, measured: Measurement) -> str:
    name = f"round {turn.number} of {rounds}" if turn.number else "warm-up"
    middle = 1e3 * statistics.median(measured.step_seconds)
    return f"{name}: {turn.contender.label}, {counted(turn.workers, 'worker')}: {middle:.2f} ms a step"


def _lines(file: str) -> int:
    try:
        return code_lines(code_of(Path(file)).decode())
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"a job is a Python file; {file} is not: {error}.") from error


def _check_interpreter(python: str) -> None:
    """An interpreter must have this Unisono."""
    command = [python, "-c", "from unisono.version import __version__; print(__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise UsageError(f"--python names a Python interpreter; {python!r} cannot be run: {error}.") from error
    version = done.stdout.strip()
    if version != __version__:
        has = f"has version {version}" if version else "has none"
        raise UsageError(
            f"every environment must have Unisono {__version__}; {python} {has}. Install it there: "
            f"{python} -m pip install unisono=={__version__}"
        )


def measure(turn: Turn, steps: int, interrupts: Interrupts) -> Measurement | None:
    """Train a job's first steps in a process of its own.

    Args:
        turn: whose, at how many workers.
        steps: how many.
        interrupts: ends it early.

    Returns:
        What the run gave; None when interrupted.

    Raises:
        JobError: it failed.
    """
    with temporary_folder(COMPARE) as folder:
        out, errors = folder / "run", folder / "errors"
        started = time.monotonic()
        with errors.open("w") as file:
            process = _started(turn, steps, out, file.fileno())
        first, peak = _watch(process, out / METRICS, turn.number == 0, interrupts)
        if interrupts():
            return None
        if process.returncode:
            raise JobError(printable(error_text(errors.read_text(errors="replace"))) or _ended(process.returncode))
        return _measurement(out, first - started, peak)


def _started(turn: Turn, steps: int, out: Path, errors: int) -> subprocess.Popen[bytes]:
    """The command, in a session of its own: what a terminal sends reaches it through this process only."""
    job = turn.contender
    command = [job.python, "-m", "unisono", "train", job.spec, "--workers", str(turn.workers), "--steps", str(steps)]
    environment = {**os.environ, **({"KERAS_BACKEND": job.backend} if job.backend else {})}
    return subprocess.Popen(
        [*command, "--out", str(out)], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=errors, start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid()),
    )  # fmt: skip


def _watch(process: subprocess.Popen[bytes], metrics: Path, weigh: bool, interrupts: Interrupts) -> tuple[float, int]:
    """Until the process ends: when its first record came, and the highest PSS seen (reading it slows a run)."""
    first, peak, next_weighing = 0.0, 0, 0.0
    root = psutil.Process(process.pid)
    asked = False
    while process.poll() is None:
        now = time.monotonic()
        if not first and metrics.exists() and metrics.stat().st_size:
            first = now
        if weigh and now >= next_weighing:
            peak, next_weighing = max(peak, proportional_bytes(root)), now + WEIGH_SECONDS
        if interrupts() and not asked:
            asked = True
            process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_SECONDS)
    return first or time.monotonic(), peak


def proportional_bytes(root: psutil.Process) -> int:
    """PSS of a process and its descendants: shared pages count once.

    Args:
        root: the process; 0 once it has ended.
    """
    total = 0
    with suppress(psutil.Error):
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


def _ended(status: int) -> str:
    return f"the command ended with status {status} and said nothing."


def _measurement(out: Path, first_step_seconds: float, peak: int) -> Measurement:
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
    timed = records[min(MOST_WARM_UP, len(records) // 5) :]
    return Measurement(
        workers=manifest["world"]["workers"],
        step_seconds=tuple(record["step_seconds"] for record in timed),
        samples_per_second=tuple(record["samples_per_second"] for record in timed),
        first_step_seconds=first_step_seconds,
        peak_bytes=peak,
        loss=records[-1]["loss"],
        batch=(manifest["job"]["batch_size"], manifest["job"]["microbatches"]),
        framework=printable(manifest["fingerprint"]["framework"]),
    )
