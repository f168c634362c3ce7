"""Which job trains fastest here: every run is a process of its own, in its own environment, one at a time."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Group, RenderableType
from rich.table import Column, Table

from unisono.commands.compared_run import Contender, Measurement, measured
from unisono.errors import JobError, UsageError
from unisono.machine.cores import physical_count
from unisono.machine.devices import usable_cores
from unisono.machine.platform_check import require_linux
from unisono.runs.interrupts import Interrupts
from unisono.runs.jobfile import code_of
from unisono.values import bounds
from unisono.version import __version__

BACKENDS = ("tensorflow", "jax", "torch")
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_COLUMNS = ("workers", "ms/step", "samples/s", "MiB", "start", "loss", "lines")


def contenders(specs: Sequence[str], pythons: Sequence[str], backends: str | None, here: str) -> tuple[Contender, ...]:
    """Who competes.

    Args:
        specs: FILE.py[:NAME] of each job.
        pythons: FILE=PATH assignments of interpreters.
        backends: Keras backends with commas between them, for a single job.
        here: the interpreter of jobs without an assignment.

    Raises:
        UsageError: a job twice, an interpreter of no job, backends of several jobs, an unknown backend.

    >>> [contender.label for contender in contenders(["jobs/k.py"], [], "jax,torch", "python")]
    ['k (jax)', 'k (torch)']
    """
    for spec in specs:
        if specs.count(spec) > 1:
            raise UsageError(f"compare takes each job once; received {spec} {specs.count(spec)} times.")
    short = [spec.rpartition("/")[2].replace(".py", "") for spec in specs]
    jobs = [*map(Contender, specs, [here] * len(specs), short if len(set(short)) == len(short) else specs)]
    for assignment in pythons:
        name, _, path = assignment.partition("=")
        if not path or not any(name in (job.spec, job.file) for job in jobs):
            raise UsageError(
                f"--python names the interpreter of a job as FILE=PATH, with FILE one of {', '.join(specs)}; received "
                f"{assignment!r}."
            )
        jobs = [replace(job, python=path) if name in (job.spec, job.file) else job for job in jobs]
    if backends is None:
        return tuple(jobs)
    if len(jobs) > 1:
        raise UsageError(
            f"--backends compares one Keras job over its backends; received {len(jobs)} jobs. Name one job, or leave "
            "--backends out."
        )
    wanted = backends.split(",")
    if not set(wanted) <= set(BACKENDS) or len(set(wanted)) < len(wanted):
        raise UsageError(
            f"--backends takes different ones of {', '.join(BACKENDS)} with commas between them; received {backends!r}."
        )
    return tuple(replace(jobs[0], backend=name, label=f"{jobs[0].label} ({name})") for name in wanted)


def turns(jobs: Sequence[Contender], workers: Sequence[int], rounds: int) -> list[tuple[int, Contender, int]]:
    """(round, job, workers) of each run: every job at every number of workers, in another order each round. Round 0
    warms file caches and weighs memory, and is not timed.

    >>> a, b = contenders(["a.py", "b.py"], [], None, "python")
    >>> [(number, job.spec) for number, job, _ in turns([a, b], [2], 2)]
    [(0, 'a.py'), (0, 'b.py'), (1, 'b.py'), (1, 'a.py'), (2, 'a.py'), (2, 'b.py')]
    """
    places = range(len(jobs))
    return [
        (number, jobs[(number + place) % len(jobs)], count)
        for number in range(rounds + 1) for count in workers for place in places
    ]  # fmt: skip


def code_lines(source: str) -> int:
    """Lines of Python that are neither blank, comments nor docstrings.

    >>> code_lines('"Title."' + chr(10) + '# why' + chr(10) + 'x = (1,' + chr(10) + '     2)')
    2
    """
    ast.parse(source)
    found: set[int] = set()
    statement: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            if any(each.type != tokenize.STRING for each in statement):
                found.update(line for each in statement for line in range(each.start[0], each.end[0] + 1))
            statement = []
        elif token.type not in _LAYOUT:
            statement.append(token)
    return len(found)


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        jobs: who competed.
        workers: the numbers of workers.
        rounds: how many timed runs each makes.
        lines: lines of code, by job file.
        runs: (job, workers) → its runs so far, of which the first is not timed.
        failures: job → the number of workers at which it failed, and its error.
        interrupted: the signal that ended the comparison early, if any.
    """

    jobs: tuple[Contender, ...]
    workers: tuple[int, ...]
    rounds: int
    lines: dict[str, int]
    runs: dict[tuple[Contender, int], list[Measurement]] = field(default_factory=dict)
    failures: dict[Contender, tuple[int, str]] = field(default_factory=dict)
    interrupted: int | None = None

    @property
    def exit_status(self) -> int:
        """0 all were measured, 1 a job failed, 128 + signal when interrupted."""
        return 128 + self.interrupted if self.interrupted else int(bool(self.failures))

    def _median(self, job: Contender, workers: int, name: str) -> float:
        """Over all steps of the timed runs; 0 without one."""
        timed = self.runs.get((job, workers), [])[1:]
        return median([record[name] for run in timed for record in run.records] or [0.0])

    def render(self) -> RenderableType:
        """The table for a terminal, and what it says."""
        columns = [Column("job", overflow="fold"), *(Column(name, justify="right") for name in _COLUMNS)]
        table = Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for job in self.jobs:
            for count in self.workers:
                table.add_row(job.label if count == self.workers[0] else "", *self._cells(job, count))
        return Group(table, *self._notes())

    def _cells(self, job: Contender, workers: int) -> list[str]:
        runs = self.runs.get((job, workers), [])
        if len(runs) < 2:
            return [str(workers), "failed" if job in self.failures else "not run", *["–"] * 5]
        untimed, *timed = runs
        return [
            str(workers) if untimed.workers == workers else f"{untimed.workers} (of {workers})",
            f"{1e3 * self._median(job, workers, 'step_seconds'):.2f}",
            f"{self._median(job, workers, 'samples_per_second'):.0f}", f"{untimed.peak_bytes / 2**20:.0f}",
            f"{median(run.start_seconds for run in timed):.1f}", f"{timed[-1].records[-1]['loss']:.4f}",
            str(self.lines[job.file]),
        ]  # fmt: skip

    def _notes(self) -> Iterator[str]:
        for count in self.workers:
            rates = {job.label: self._median(job, count, "samples_per_second") for job in self.jobs}
            best, *others = sorted(filter(rates.get, rates), key=lambda name: -rates[name]) or [""]
            if others:
                slower = ", ".join(f"{name} needs {rates[best] / rates[name]:.2f} × its time" for name in others)
                yield f"{_workers(count)}: {best} is fastest; {slower}."
        yield ""
        first = {job.label: runs[0] for (job, _), runs in reversed(self.runs.items())}
        for name, run in first.items():
            yield f"{name}: {run.framework}"
        if len({run.batch for run in first.values()}) > 1:
            batches = "; ".join(f"{name} {run.batch[0]} in {run.batch[1]}" for name, run in first.items())
            yield f"Samples of a batch and its microbatches differ, so compare samples/s, not steps: {batches}."
        yield (
            f"\nMedians of {self.rounds} run{'s' * (self.rounds != 1)} of each, made in turn after one that is not "
            "timed.\nMiB: peak PSS of all processes. start: seconds from the command to the end of the first step.\n"
            "loss: of the last step (each framework draws its own first values). lines: of code in the file."
        )
        for job, (count, text) in self.failures.items():
            yield f"\n{job.label} failed at {_workers(count)}:\n{text}"


def _workers(count: int) -> str:
    return f"{count} worker{'s' * (count != 1)}"


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
    jobs, cores = contenders(specs, pythons, backends, sys.executable), physical_count(usable_cores())
    if workers is None:
        workers = [2**power for power in range(cores.bit_length()) if 2**power < cores] + [cores]
    counts = tuple(map(bounds.workers, workers))
    steps, rounds = bounds.whole("steps", steps, 2), bounds.whole("rounds", rounds)
    if not counts or len(set(counts)) < len(counts):
        raise UsageError(f"--workers takes different numbers; received {','.join(map(str, counts)) or 'none'}.")
    found = Comparison(jobs, counts, rounds, {})
    for file in {job.file for job in jobs}:
        try:
            found.lines[file] = code_lines(code_of(Path(file)).decode())
        except (SyntaxError, ValueError) as error:
            raise UsageError(f"a job is a Python file; {file} is not: {error}.") from error
    for python in dict.fromkeys(job.python for job in jobs):
        _check_interpreter(python)
    interrupts = Interrupts()
    with interrupts.handled():
        for number, job, count in turns(jobs, counts, rounds):
            if job in found.failures:
                continue
            try:
                run = measured(job, count, steps, not number, interrupts)
            except JobError as error:
                found.failures[job] = (count, str(error))
                message(f"{job.label} failed at {_workers(count)}; the others go on")
                continue
            if run is None:
                found.interrupted = interrupts.received
                break
            found.runs.setdefault((job, count), []).append(run)
            name = f"round {number} of {rounds}" if number else "warm-up"
            middle = 1e3 * median(record["step_seconds"] for record in run.records)
            message(f"{name}: {job.label}, {_workers(count)}: {middle:.2f} ms a step")
    return found


def _check_interpreter(python: str) -> None:
    """An interpreter must have this Unisono."""
    command = [python, "-c", "from unisono.version import __version__; print(__version__)"]
    try:
        version = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError as error:
        raise UsageError(f"--python names a Python interpreter; {python!r} cannot be run: {error}.") from error
    if version != __version__:
        has = f"has version {version}" if version else "has none"
        raise UsageError(
            f"every environment must have Unisono {__version__}; {python} {has}. Install it there: "
            f"{python} -m pip install unisono=={__version__}"
        )
