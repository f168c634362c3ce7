"""The process that forks workers."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

import jobs
from faults import run


@dataclass
class Collecting:
    """A forward pass that writes down how this process's garbage is collected."""

    folder: Path

    def __call__(self, model: nn.Module, inputs: Tensor) -> Tensor:
        name = Path("/proc/self/comm").read_text().strip()
        (self.folder / f"{name}-{os.getpid()}").write_text(f"{gc.get_threshold()} {gc.get_freeze_count() > 10_000}")
        out: Tensor = model(inputs)
        return out


def test_workers_collect_garbage_as_usual_and_leave_what_is_shared_alone(tmp_path: Path) -> None:
    outcome, _, _ = run(jobs.make(jobs.Mlp, forward=Collecting(tmp_path)), 2)
    assert outcome.failure is None, outcome.failure
    told = [path.read_text() for path in tmp_path.glob("unisono-worker-*")]
    assert told == [f"{gc.get_threshold()} True"] * 2
