"""What a run no longer needs it gives back at once: its checkpoint when it goes on, its shared memory when it ends."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jobs
import unisono
from jobs import CLASSES, FEATURES
from unisono.errors import JobError
from unisono.memory.segment import Segment, SegmentLayout
from unisono.runs.recorder import Recorder

MEBI = 1 << 20
WIDE = 4 * MEBI // 4 // FEATURES
"""Of a layer whose weight takes 4 MiB."""


class Wide(nn.Module):
    """Has a large weight."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.last = nn.Linear(FEATURES, WIDE), nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.last(inputs) + self.wide(inputs).mean()
        return out


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Second descriptors of all shared memory that is made: its pages can be counted although the run has closed it."""
    found: list[int] = []
    create = Segment.create

    def created(layout: SegmentLayout) -> Segment:
        segment = create(layout)
        found.append(os.dup(segment.file))
        return segment

    monkeypatch.setattr(Segment, "create", created)
    yield found
    for file in found:
        os.close(file)


def held(file: int) -> int:
    """Bytes that shared memory occupies."""
    return os.fstat(file).st_blocks * 512


def failing(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets) * torch.ones(3)


def test_a_run_that_has_ended_holds_no_shared_memory(files: list[int], tmp_path: Path) -> None:
    job = jobs.make(Wide, steps=2)
    run = unisono.train(job, out=tmp_path / "run", workers=2)
    assert run.model("final").wide.weight.abs().max() > 0
    with pytest.raises(unisono.UsageError, match="it has done 2 steps"):
        unisono.train(replace(job, steps=1), resume=run.directory, workers=2)
    assert [held(file) for file in files] == [0, 0]


def test_a_run_that_has_failed_holds_none_either(files: list[int], tmp_path: Path) -> None:
    with pytest.raises(JobError, match="must return one number") as kept:
        unisono.train(jobs.make(Wide, loss=failing), out=tmp_path / "run", workers=2)
    assert kept.traceback, "whose frames hold whatever the run held"
    assert [held(file) for file in files] == [0]


@pytest.mark.thorough
def test_worlds_that_are_compared_hold_none_afterwards(files: list[int]) -> None:
    unisono.verify(jobs.make(Wide, steps=3), workers=(1, 2))
    assert len(files) > 2
    assert [held(file) for file in files] == [0] * len(files)


def test_one_process_leaves_a_model_of_the_caller_s_as_it_was_trained(tmp_path: Path) -> None:
    model = Wide()
    run = unisono.train(jobs.make(lambda: model, steps=2), out=tmp_path / "run", debug=True)
    assert torch.equal(model.last.weight, run.model("final").last.weight)
    assert model.last.weight.abs().max() > 0


def private_bytes() -> int:
    """Memory of this process alone."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def test_a_resumed_run_does_not_keep_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.make(Wide, steps=2, optimizer=lambda model: torch.optim.AdamW(model.parameters()))
    run = unisono.train(job, out=tmp_path / "run", workers=1)
    values: list[int] = []
    restore = Recorder.restore

    def restored(self: Recorder, *given: Any) -> tuple[int, bool]:
        assert self.resumed
        before, size = private_bytes(), sum(a.nbytes for a in self.resumed.optimizer.arrays.values())
        result = restore(self, *given)
        values.extend((before - private_bytes(), size))
        return result

    monkeypatch.setattr(Recorder, "restore", restored)
    unisono.train(replace(job, steps=3), resume=run.directory, workers=1)
    given_back, size = values
    assert size > 8 * MEBI
    assert given_back > size, "moments, and parameters besides"
