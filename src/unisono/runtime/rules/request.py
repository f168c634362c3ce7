"""What a run asks of a host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from unisono.errors import UsageError
from unisono.job import Job
from unisono.machine.gpu_shares import CORES
from unisono.partition.layout import Layout

Phase = Callable[[str, int, int, int], None]


def no_phase(phase: str, round_: int, slot: int, at: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Request:
    """What a run asks of a host.

    Attributes:
        workers: slots wanted.
        threads: threads a worker.
        layout: how the work is split.
        recompute: keep only what crosses between a stage's units, and compute the rest again for the backward pass.
        timeline: have what is done when recorded.
        cores: the usable cores, best first, for pinning.
        trace: record parameter digests at each step.
        evaluate_only: no training step.
        several_hosts: whether other hosts train with this one.
        most_steps: stop after so many steps (`verify`).
        checkpoint_steps: steps between checkpoints, or None.
        checkpoint_evaluations: a checkpoint may follow each evaluation.
        change: makes the job that the run has of the one that is held, or None.
        stall_seconds: how long a worker may make no progress; None = adapted to its usual pace.
        device: the type of the devices that workers own, each with a replica of the model there; None = they compute on
            CPUs, on the one model in the host's memory.
        gpus: what CUDA_VISIBLE_DEVICES calls those that workers own; more workers than GPUs share them.
        folder: where a framework that has files for whole models leaves one at the end, or None.
        phase: called with (phase, round, slot, microbatch or chunk) between the pieces of work; tests and `verify` make
            it fail there.

    Raises:
        UsageError: a model is to be cut that workers own as a whole.
    """

    workers: int
    threads: int
    cores: tuple[int, ...]
    layout: Layout = field(default_factory=Layout)
    recompute: bool = False
    timeline: bool = False
    trace: bool = False
    evaluate_only: bool = False
    several_hosts: bool = False
    most_steps: int | None = None
    checkpoint_steps: int | None = None
    checkpoint_evaluations: bool = False
    change: Callable[[Job], Job] | None = None
    stall_seconds: float | None = None
    device: str | None = None
    gpus: tuple[str, ...] = ()
    folder: Path | None = None
    phase: Phase = no_phase

    def __post_init__(self) -> None:
        if self.device is not None and (self.layout.pipeline > 1 or self.recompute):
            asked = "recompute='blocks'" if self.layout.pipeline == 1 else f"layout {self.layout}"
            raise UsageError(
                f"a worker that owns a device has the whole model there; received device={self.device!r} and {asked}. "
                "Leave that out, or leave the device out: CPUs train a model that is cut."
            )

    @property
    def cores_per_worker(self) -> int:
        """What a worker is held to, where there are enough for all."""
        return max(self.threads, CORES) if self.gpus else self.threads
