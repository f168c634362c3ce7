"""The promise as a test: train the first steps at several world sizes and compare every parameter's bits."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from unisono.api import layout_of, request_for
from unisono.checkpoint.parameters import sha256_of
from unisono.errors import JobError, UsageError
from unisono.execution import Interrupts, Observation, held
from unisono.frameworks.registry import made
from unisono.job import Job
from unisono.jobfile import JobFile
from unisono.observe.progress import Silent
from unisono.partition.layout import Layout
from unisono.runtime.host import Host
from unisono.runtime.prepare import open_data
from unisono.runtime.samples import example
from unisono.runtime.watcher import Outcome, raise_failure

WHOLE_AND_CUT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class World:
    """What one layout gave."""

    layout: Layout
    step_seconds: float
    parameters_sha256: str
    digests: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        worlds: one result per layout.
        difference: (step, parameter) of the first difference, if there is one.
        whole: the loss of one batch computed whole.
        cut: the same from its microbatches.
    """

    worlds: tuple[World, ...]
    difference: tuple[int, str] | None
    whole: float
    cut: float

    @property
    def agree(self) -> bool:
        """Whether all layouts gave the same bits."""
        return len({world.parameters_sha256 for world in self.worlds}) == 1

    @property
    def mean_over_samples(self) -> bool:
        """Whether the loss of a batch is the mean over its samples."""
        return abs(self.whole - self.cut) <= WHOLE_AND_CUT_TOLERANCE * max(abs(self.whole), abs(self.cut), 1e-12)

    def render(self) -> RenderableType:
        """A table for a terminal, and what it means."""
        cut = any(world.layout.pipeline > 1 for world in self.worlds)
        table = Table("layout" if cut else "workers", "ms / step", box=box.SIMPLE_HEAD, padding=(0, 1))
        table.add_column("SHA-256 of the parameters", overflow="fold")
        for world in self.worlds:
            name = str(world.layout) if cut else str(world.layout.workers)
            table.add_row(name, f"{1e3 * world.step_seconds:.2f}", world.parameters_sha256)
        parts: list[RenderableType] = [table]
        if self.agree:
            parts.append("Same bits in every layout." if cut else "Same bits at every number of workers.")
        elif self.difference:
            step, name = self.difference
            parts.append(f"The results differ: first after step {step}, in parameter {name!r}. "
                         "Look for randomness or state that is not the model's (counters, files, time).")  # fmt: skip
        else:
            parts.append("The results differ, in buffers only.")
        if not self.mean_over_samples:
            parts.append(
                f"Warning: the loss of one batch is {self.whole:.6g} whole and {self.cut:.6g} cut into "
                "microbatches, so it "
                "is not a mean over samples. Return (total, weight) instead (with ignore_index: sum and number "
                "of tokens)."
            )
        return Group(*parts)


def verify(
    job: Job | JobFile,
    workers: Sequence[int] = (1, 2, 3, 4),
    steps: int = 20,
    message: Callable[[str], None] = print,
    layouts: Sequence[Layout | str] = (),
    host: Host | None = None,
) -> VerifyReport:
    """Train the first steps at each world size, or in each layout, and compare.

    Args:
        job: the job, or its file.
        workers: the world sizes.
        steps: how many steps.
        message: shows what processes print.
        layouts: the layouts, instead of world sizes.
        host: as in `unisono.train`.

    Returns:
        The report; `report.agree` is the verdict.

    Raises:
        JobError: the job failed.
    """
    if not workers and not layouts:
        raise UsageError("verify compares world sizes; received none. Name some: --workers 1,2,3,4.")
    results: list[World] = []
    names: tuple[str, ...] = ()
    with held(job, host, message) as execution:
        for layout in [layout_of(layout) for layout in layouts] or [Layout(data=count) for count in workers]:
            interrupts = Interrupts()
            seen = Observation(execution.job, Silent(), interrupts)
            with interrupts.handled(), execution.copied() as copy:
                outcome = copy(request_for(layout.workers, 1, layout, trace=True, most_steps=steps), seen)
            raise_failure(outcome)
            if not outcome.complete:
                raise JobError("verify was interrupted.")
            results.append(_world(layout, outcome, seen.records))
            names = tuple(spec.name for spec in outcome.described.layout.description.parameters)
            message(f"{layout}: {results[-1].parameters_sha256}")
        whole, cut = execution.host.apply(whole_and_cut, 1)
    return VerifyReport(tuple(results), first_difference(results, names), whole, cut)


def _world(layout: Layout, outcome: Outcome, records: Sequence[Mapping[str, Any]]) -> World:
    return World(
        layout=layout,
        step_seconds=statistics.median(record["step_seconds"] for record in records),
        parameters_sha256=sha256_of(outcome.state.saved(outcome.steps_done)),
        digests=tuple(tuple(record["digests"]) for record in records),
    )


def first_difference(worlds: Sequence[World], names: Sequence[str]) -> tuple[int, str] | None:
    """The first (step, parameter) at which two worlds differ; digest i is taken before step i+1, so after step i.

    >>> one = World(Layout(1), 0.0, "", (("a", "b"), ("c", "d")))
    >>> two = World(Layout(2), 0.0, "", (("a", "b"), ("c", "e")))
    >>> first_difference([one, two], ["w", "b"])
    (1, 'b')
    """
    for step, rows in enumerate(zip(*(world.digests for world in worlds), strict=True)):
        for index, name in enumerate(names):
            if len({row[index] for row in rows if row}) > 1:
                return step, name
    if len({world.parameters_sha256 for world in worlds}) > 1:
        return len(worlds[0].digests), "one of the last step's"
    return None


def whole_and_cut(job: Job) -> tuple[float, float]:
    """The loss of one batch in evaluation mode, computed whole and from its microbatches.

    Samples are read once for both. Where `collate` draws at random there is nothing to compare: the whole's loss twice.
    """
    framework, model = made(job, 1)
    opened = open_data(job, framework.data)
    adapter = framework.adapter(job, model, 1, lambda: example(job, opened, framework.data))
    indices = list(range(min(job.batch_size, len(opened.training))))
    framework.data.seed_everything(0)
    samples = [opened.training[index] for index in indices]
    size = -(-len(indices) // job.microbatches)
    parts = [indices[start : start + size] for start in range(0, len(indices), size)]

    def losses(groups: Sequence[Sequence[int]], seed: int) -> float:
        total = weight = 0.0
        for group in groups:
            framework.data.seed_everything(seed)
            chosen = [samples[index] for index in group]
            batch = job.collate(chosen) if job.collate else framework.data.collate(chosen, group)
            measured = adapter.evaluate(batch, len(group), False)
            total, weight = total + measured.loss, weight + measured.weight
        return total / weight

    whole = losses([indices], 0)
    return whole, losses(parts, 0) if losses([indices], 1) == whole else whole
