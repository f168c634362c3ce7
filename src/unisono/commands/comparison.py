"""Which job trains fastest here: who competes, in which order, what their runs gave and how it reads. No I/O."""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from unisono.errors import UsageError

BACKENDS = ("tensorflow", "jax", "torch")
_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip


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
    twice = [spec for spec in specs if specs.count(spec) > 1]
    if twice:
        raise UsageError(f"compare takes each job once; received {twice[0]} {specs.count(twice[0])} times.")
    chosen = _interpreters(specs, pythons)
    short = [spec.rpartition("/")[2].replace(".py", "") for spec in specs]
    names = short if len(set(short)) == len(short) else specs
    jobs = [Contender(spec, chosen.get(spec, here), name) for spec, name in zip(specs, names, strict=True)]
    if backends is None:
        return tuple(jobs)
    if len(jobs) > 1:
        raise UsageError(
            f"--backends compares one Keras job over its backends; received {len(jobs)} jobs. Name one job, or leave "
            "--backends out."
        )
    wanted = backends.split(",")
    wrong = [name for name in wanted if name not in BACKENDS or wanted.count(name) > 1]
    if wrong:
        raise UsageError(
            f"--backends takes different ones of {', '.join(BACKENDS)} with commas between them; received {backends!r}."
        )
    return tuple(replace(jobs[0], backend=name) for name in wanted)


def _interpreters(specs: Sequence[str], pythons: Sequence[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for assignment in pythons:
        name, equals, path = assignment.partition("=")
        meant = [spec for spec in specs if name in (spec, spec.partition(":")[0])]
        if not equals or not path or not meant:
            raise UsageError(
                f"--python names the interpreter of a job as FILE=PATH, with FILE one of {', '.join(specs)}; received "
                f"{assignment!r}."
            )
        chosen.update(dict.fromkeys(meant, path))
    return chosen


def worlds(cores: int) -> list[int]:
    """The numbers of workers to compare when none are named: doubled up to all cores.

    >>> worlds(6)
    [1, 2, 4, 6]
    """
    return [2**power for power in range(cores.bit_length()) if 2**power < cores] + [cores]


def counted(number: int, thing: str) -> str:
    """A number of things.

    >>> counted(1, "worker"), counted(2, "worker")
    ('1 worker', '2 workers')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Turn:
    """One run to make.

    Attributes:
        number: 0 is the round that warms file caches and weighs memory, and is not timed.
        contender: whose.
        workers: at how many workers.
    """

    number: int
    contender: Contender
    workers: int


def turns(jobs: Sequence[Contender], workers: Sequence[int], rounds: int) -> Iterator[Turn]:
    """Every job at every number of workers in each round, in another order each round.

    >>> a, b = contenders(["a.py", "b.py"], [], None, "python")
    >>> [(turn.number, turn.contender.spec) for turn in turns([a, b], [2], 2)]
    [(0, 'a.py'), (0, 'b.py'), (1, 'b.py'), (1, 'a.py'), (2, 'a.py'), (2, 'b.py')]
    """
    for number in range(rounds + 1):
        first = number % len(jobs)
        for count in workers:
            for contender in (*jobs[first:], *jobs[:first]):
                yield Turn(number, contender, count)


def code_lines(source: str) -> int:
    """Lines of Python that are neither blank, comments nor docstrings.

    >>> code_lines('"Title."' + chr(10) + '# why' + chr(10) + 'x = (1,' + chr(10) + '     2)')
    2
    """
    counted_lines: set[int] = set()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    for token in tokens:
        if token.type not in _NO_CODE:
            counted_lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.end_lineno is not None:
            counted_lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(counted_lines)


@dataclass(frozen=True)
class Measurement:
    """What one run gave.

    Attributes:
        workers: how many really worked.
        step_seconds: of each step after warm-up.
        samples_per_second: of the same steps.
        first_step_seconds: from the start of the command until the first step was done.
        peak_bytes: the highest PSS seen over all its processes.
        loss: of the last step.
        batch: (batch size, microbatches) of the job.
        framework: its name and version.
    """

    workers: int
    step_seconds: tuple[float, ...]
    samples_per_second: tuple[float, ...]
    first_step_seconds: float
    peak_bytes: int
    loss: float
    batch: tuple[int, int]
    framework: str


@dataclass(frozen=True)
class Row:
    """The medians of one job at one number of workers."""

    workers: str
    step_seconds: float
    samples_per_second: float
    peak_bytes: int
    first_step_seconds: float
    loss: float


def row(asked: int, runs: Sequence[Measurement]) -> Row:
    """Medians over all timed runs; memory from the untimed first one.

    Args:
        asked: how many workers were asked for.
        runs: the first of them is not timed.
    """
    timed, granted = runs[1:], runs[0].workers
    return Row(
        workers=str(asked) if granted == asked else f"{granted} (of {asked})",
        step_seconds=statistics.median(value for run in timed for value in run.step_seconds),
        samples_per_second=statistics.median(value for run in timed for value in run.samples_per_second),
        peak_bytes=runs[0].peak_bytes,
        first_step_seconds=statistics.median(run.first_step_seconds for run in timed),
        loss=timed[-1].loss,
    )


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        jobs: who competed.
        workers: the numbers of workers.
        rounds: how many timed runs each makes.
        lines: lines of code, by job file.
        runs: (job, workers) → its runs so far.
        failures: job → the number of workers at which it failed, and its error.
        interrupted: the signal that ended the comparison early, if any.
    """

    jobs: tuple[Contender, ...]
    workers: tuple[int, ...]
    rounds: int
    lines: Mapping[str, int]
    runs: dict[tuple[Contender, int], list[Measurement]] = field(default_factory=dict)
    failures: dict[Contender, tuple[int, str]] = field(default_factory=dict)
    interrupted: int | None = None

    @property
    def exit_status(self) -> int:
        """0 all were measured, 1 a job failed, 128 + signal when interrupted."""
        return 128 + self.interrupted if self.interrupted else int(bool(self.failures))

    def row(self, job: Contender, workers: int) -> Row | None:
        """A job's medians; None before its first timed run."""
        runs = self.runs.get((job, workers), [])
        return row(workers, runs) if len(runs) > 1 else None

    def render(self) -> RenderableType:
        """The table for a terminal, and what it says."""
        return Group(self._table(), *self._verdicts(), *self._notes(), *self._errors())

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        table.add_column("job", overflow="fold")
        for name in ("workers", "ms/step", "samples/s", "MiB", "start", "loss", "lines"):
            table.add_column(name, justify="right")
        for job in self.jobs:
            for count in self.workers:
                found = self.row(job, count)
                name = job.label if count == self.workers[0] else ""
                if found is None:
                    table.add_row(name, str(count), "failed" if job in self.failures else "not run", *["–"] * 5)
                    continue
                table.add_row(
                    name, found.workers, f"{1e3 * found.step_seconds:.2f}", f"{found.samples_per_second:.0f}",
                    f"{found.peak_bytes / 2**20:.0f}", f"{found.first_step_seconds:.1f}", f"{found.loss:.4f}",
                    str(self.lines[job.file]),
                )  # fmt: skip
        return table

    def _verdicts(self) -> Iterator[str]:
        """Who is fastest at each number of workers."""
        for count in self.workers:
            rates = {job.label: found.samples_per_second for job in self.jobs if (found := self.row(job, count))}
            if len(rates) > 1:
                best, *others = sorted(rates, key=lambda name: -rates[name])
                slower = ", ".join(f"{name} needs {rates[best] / rates[name]:.2f} × its time" for name in others)
                yield f"{counted(count, 'worker')}: {best} is fastest; {slower}."

    def _notes(self) -> Iterator[str]:
        yield ""
        first = {job: runs[0] for job in self.jobs for (other, _), runs in self.runs.items() if other == job and runs}
        for job, run in first.items():
            yield f"{job.label}: {run.framework}"
        if len({run.batch for run in first.values()}) > 1:
            batches = "; ".join(f"{job.label} {run.batch[0]} in {run.batch[1]}" for job, run in first.items())
            yield f"Samples of a batch and its microbatches differ, so compare samples/s, not steps: {batches}."
        yield f"\nMedians of {counted(self.rounds, 'run')} of each, made in turn after one that is not timed."
        yield "MiB: peak PSS of all processes. start: seconds from the command to the end of the first step."
        yield "loss: of the last step (each framework draws its own first values). lines: of code in the file."

    def _errors(self) -> Iterator[str]:
        for job, (count, text) in self.failures.items():
            yield f"\n{job.label} failed at {counted(count, 'worker')}:\n{text}"
