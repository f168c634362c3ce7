"""What each worker gets of the data and of the model, and a check that the parts are disjoint and make the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from unisono.errors import UsageError
from unisono.frameworks.protocol import ModelDescription
from unisono.job import Job
from unisono.memory.packing import packed_bytes
from unisono.partition.batches import Batches
from unisono.partition.layout import Layout
from unisono.partition.stages import bubble
from unisono.runs.request import request_of
from unisono.runtime.preparation.cutting import Cut
from unisono.runtime.preparation.prepare import prepare
from unisono.runtime.preparation.prepared import Prepared
from unisono.runtime.rules.plan import Plan
from unisono.settings import Settings


@dataclass(frozen=True)
class StagePart:
    """What one stage is.

    Attributes:
        units: the names of its first and its last piece.
        parameters: numbers of the parameters whose gradients are its own.
        elements: their elements.
        activation_bytes: what a microbatch keeps for its backward pass; None where the model can't be cut.
        forward_seconds, backward_seconds: of one microbatch; None where the model can't be cut.
    """

    units: tuple[str, str]
    parameters: tuple[int, ...]
    elements: int
    activation_bytes: int | None = None
    forward_seconds: float | None = None
    backward_seconds: float | None = None

    @property
    def seconds(self) -> float:
        """Of one microbatch."""
        return (self.forward_seconds or 0.0) + (self.backward_seconds or 0.0)


@dataclass(frozen=True, kw_only=True)
class Part(StagePart):
    """What one worker gets: its stage, with the activations that it keeps at most.

    Attributes:
        pipe, stage: its place.
        samples: samples of an epoch that its pipe computes.
        data_bytes: their size.
        share: its part of the model's time.
    """

    pipe: int
    stage: int
    samples: int
    data_bytes: int
    share: float


@dataclass(frozen=True)
class PartitionReport:
    """What `partition` found.

    Attributes:
        layout: data × pipeline.
        parts: by worker.
        bubble: the predicted share of time in which a worker of a pipe has nothing to do.
        data_is_whole: whether every sample of an epoch is computed by exactly one pipe.
        model_is_whole: whether every trained parameter belongs to exactly one stage.
        uncut: why the model can't be cut; None where it can.
    """

    layout: Layout
    parts: tuple[Part, ...]
    bubble: float
    data_is_whole: bool
    model_is_whole: bool
    uncut: str | None = None

    @property
    def sound(self) -> bool:
        """Whether the parts are disjoint and make the whole."""
        return self.data_is_whole and self.model_is_whole

    def render(self) -> RenderableType:
        """Tables for a terminal, and what they mean."""
        table = Table("worker", "pipe", "stage", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in ("samples Dᵢ", "MB", "numbers Mᵢ", "act. MB", "fwd ms", "bwd ms", "share"):
            table.add_column(name, justify="right")
        for worker, p in enumerate(self.parts):
            table.add_row(
                str(worker), str(p.pipe), str(p.stage), f"{p.samples:,}", f"{p.data_bytes / 1e6:.1f}",
                f"{p.elements:,}", _in_units(p.activation_bytes, 1e-6), _in_units(p.forward_seconds, 1e3),
                _in_units(p.backward_seconds, 1e3), f"{p.share:.0%}",
            )  # fmt: skip
        return Group(
            table,
            *(f"stage {p.stage}: {' … '.join(dict.fromkeys(p.units))}" for p in self.parts if p.pipe == 0),
            f"predicted bubble {self.bubble:.1%}",
            _verdict("data", "sample of an epoch", "pipe", self.data_is_whole),
            _verdict("model", "trained parameter", "stage", self.model_is_whole),
            *([self.uncut] if self.uncut else []),
        )


def _kept(stage: StagePart, microbatches: int) -> int | None:
    return None if stage.activation_bytes is None else microbatches * stage.activation_bytes


def _in_units(value: float | None, factor: float) -> str:
    return "–" if value is None else f"{factor * value:.2f}"


def _verdict(what: str, part: str, owner: str, whole: bool) -> str:
    return f"{what}: every {part} belongs to exactly one {owner}: {'yes' if whole else 'NO'}"


def partition(job: Job, workers: int | None = None, pipeline: int = 1, threads: int = 1) -> PartitionReport:
    """How a job would be partitioned.

    Args:
        job: the job.
        workers: how many; default: the usable physical cores.
        pipeline: stages of a pipe.
        threads: of each worker.

    Returns:
        The report.

    Raises:
        UsageError: the model or the batch can't be cut so.
    """
    prepared = prepare(job, request_of(Settings(workers=workers, threads=threads, layout=Layout(pipeline=pipeline))))
    shape = prepared.layout.shape
    layout = Layout(shape.slots // shape.stages, shape.stages)
    plan = prepared.described.opening(0, (0,) * shape.slots, False)
    stages, uncut = _stages(prepared)
    whole_seconds = sum(stage.seconds for stage in stages)
    batches = prepared.program.batches
    samples = [_samples(batches, plan, pipe) for pipe in range(plan.pipes)]
    batch, count = prepared.example()
    sample_bytes = packed_bytes(batch, prepared.framework.data.reducers()) / count  # as it travels to a worker
    parts = tuple(
        Part(
            **{**vars(stage), "activation_bytes": _kept(stage, layout.pipeline - index)},
            pipe=pipe, stage=index, samples=samples[pipe], data_bytes=int(samples[pipe] * sample_bytes),
            share=stage.seconds / whole_seconds if whole_seconds else 1.0,
        )
        for pipe in range(plan.pipes) for index, stage in enumerate(stages)
    )  # fmt: skip
    trained = [number for number, owner in enumerate(prepared.layout.description.owners) if owner is not None]
    least = min(len(plan.share(pipe)) for pipe in range(plan.pipes))
    return PartitionReport(
        layout=layout,
        parts=parts,
        bubble=bubble(layout.pipeline, least),
        data_is_whole=all(_covers_a_batch(batches, plan, step) for step, _ in _unlike_steps(batches)),
        model_is_whole=_is_partition([stage.parameters for stage in stages], trained),
        uncut=uncut,
    )


def _stages(prepared: Prepared) -> tuple[list[StagePart], str | None]:
    """What each stage is, and why the model can't be cut if it can't."""
    cut, description = prepared.described.cut, prepared.layout.description
    if cut is None:
        try:
            units = prepared.adapter.units(*prepared.example())
        except UsageError as error:
            trained = tuple(number for number, owner in enumerate(description.owners) if owner is not None)
            whole = StagePart(("the whole model",) * 2, trained, _elements(description, trained))
            return [whole], str(error)
        cut = Cut(units, (0, len(units)))
    parts = []
    for index, pieces in enumerate(cut.stages):
        parameters = prepared.adapter.stage(cut.cuts, index, prepared.request.recompute).parameters
        part = StagePart(
            (pieces[0].name, pieces[-1].name),
            parameters,
            _elements(description, parameters),
            sum(unit.activation_bytes for unit in pieces),
            sum(unit.forward_seconds for unit in pieces),
            sum(unit.backward_seconds for unit in pieces),
        )
        parts.append(part)
    return parts, None


def _elements(description: ModelDescription, numbers: Sequence[int]) -> int:
    return sum(description.parameters[number].elements for number in numbers)


def _unlike_steps(batches: Batches) -> list[tuple[int, int]]:
    """Steps that stand for an epoch, and how many are cut as each is: the whole batches, and a short last one."""
    whole, rest = divmod(batches.length, batches.batch_size)
    short = [(batches.steps_per_epoch - 1, 1)] if rest and not batches.drop_last else []
    return ([(0, whole)] if whole else []) + short


def _samples(batches: Batches, plan: Plan, pipe: int) -> int:
    """Samples of an epoch that a pipe computes."""
    return sum(
        times * len(batches.positions(step, microbatch))
        for step, times in _unlike_steps(batches)
        for microbatch in plan.share(pipe)
    )


def _covers_a_batch(batches: Batches, plan: Plan, step: int) -> bool:
    """Whether each sample of a batch is computed by exactly one pipe."""
    first = batches.locate(step)[1] * batches.batch_size
    shares = [
        [position for microbatch in plan.share(pipe) for position in batches.positions(step, microbatch)]
        for pipe in range(plan.pipes)
    ]
    return _is_partition(shares, range(first, first + batches.samples(step)))


def _is_partition(parts: Sequence[Sequence[Any]], whole: Sequence[Any]) -> bool:
    return sorted(item for part in parts for item in part) == sorted(whole)
