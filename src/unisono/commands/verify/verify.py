"""Train the first steps in every situation, compare the bits, compute one batch as the plain framework does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from unisono.commands.verify.alone import alone
from unisono.commands.verify.report import VerifyReport, shortened
from unisono.commands.verify.whole_batch import WholeBatch, compared
from unisono.commands.verify.worlds import World, first_difference, first_steps, killed, resumed, undisturbed
from unisono.errors import JobError, UsageError
from unisono.job import Job
from unisono.partition.layout import Layout
from unisono.runs.execution import Supervised, held
from unisono.runs.jobfile import JobFile
from unisono.runtime.supervisor.warm_parent_client import WarmParent
from unisono.settings import AUTO, Settings
from unisono.values import bounds


def verify(
    job: Job | JobFile,
    workers: Sequence[int] = (1, 2, 3, 4),
    steps: int = 20,
    message: Callable[[str], None] = print,
    layouts: Sequence[Layout | str] = (),
    host: WarmParent | None = None,
    device: str = AUTO,
) -> VerifyReport:
    """Train the first steps at each world size, or in each layout; with a killed worker, resumed, and in one process
    (which computes on the CPU and is left out where workers compute on a GPU: other bits).

    Args:
        job: the job, or its file.
        workers: the world sizes.
        steps: how many steps.
        message: shows what processes print.
        layouts: the layouts, instead of world sizes.
        host, device: as in `unisono.train`.

    Returns:
        The report; `report.agree` is the verdict.

    Raises:
        JobError: the job failed.
        UsageError: workers cannot compute on the device here.
    """
    if not isinstance(workers, Sequence) or (not workers and not layouts):
        raise UsageError(f"verify compares world sizes; received {workers or 'none'}. Name some: --workers 1,2,3,4.")
    workers, steps = [bounds.workers(count) for count in workers], bounds.whole("steps", steps)
    chosen = [Settings(layout=layout).split for layout in layouts] or [Layout(data=count) for count in workers]
    for layout in chosen:
        first_steps(layout, steps, device)  # what is refused is refused before the job is read
    results: list[World] = []
    with held(job, host, message) as execution:
        for world in _worlds(execution, chosen, steps, device, names=bool(layouts)):
            results.append(world)
            message(f"{world.name}: {shortened(world.parameters_sha256)}")
        batch = _whole_batch(execution)
    return VerifyReport(tuple(results), first_difference(results), batch)


def _worlds(execution: Supervised, layouts: Sequence[Layout], steps: int, device: str, names: bool) -> Iterator[World]:
    """Each situation's, as soon as it is known."""
    called = [str(layout) if names else f"{layout.workers} worker{'s' * (layout.workers > 1)}" for layout in layouts]
    first = undisturbed(execution, layouts[0], called[0], steps, device)
    yield first
    for layout, name in zip(layouts[1:], called[1:], strict=True):
        yield undisturbed(execution, layout, name, steps, device)
    done = len(first.digests)  # a short job has fewer steps
    second, third = 1 % len(layouts), 2 % len(layouts)
    yield killed(execution, layouts[second], called[second], done, device)
    if done > 1:
        yield resumed(execution, (layouts[second], layouts[third]), (called[second], called[third]), done, device)
    if device == "cuda":
        return
    source = execution.host.source
    assert source is not None
    threads = "2" if os.environ.get("OMP_NUM_THREADS") != "2" else "3"
    one = alone(source, done, threads)
    if one.parameters_sha256 != first.parameters_sha256:  # is it the process, or the threads of its environment?
        yield alone(source, done, "1")
    yield one


def _whole_batch(execution: Supervised) -> WholeBatch | str | None:
    """The comparison, or why there is none."""
    try:
        return execution.host.apply(compared, 1)  # type: ignore[no-any-return]
    except (JobError, UsageError) as error:
        return str(error)
