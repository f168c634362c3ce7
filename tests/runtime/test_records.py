"""What a step's record says of where its time went."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import jobs
from faults import run
from unisono.runtime import microbatches, slot


class Clock:
    """Time passes where the job says so."""

    now = 0.0


class SlowToRead:
    """Samples that take a second each to read."""

    def __init__(self) -> None:
        self.samples = jobs.dataset()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        Clock.now += 1.0
        return self.samples[index]


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    Clock.now += 0.5
    return torch.nn.functional.cross_entropy(outputs, targets)


def test_waiting_for_samples_is_told_apart_from_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (microbatches, slot):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: Clock.now))
    _, records, _ = run(jobs.make(steps=3, data=SlowToRead(), loss=loss, drop_last=True))
    spent = [[sum(record[f"{part}_seconds"]) for part in ("data", "compute")] for record in records]
    assert spent == [[32.0, 4.0]] * 3  # 32 samples, 8 microbatches
    assert [record["step_seconds"] for record in records] == [36.0] * 3
