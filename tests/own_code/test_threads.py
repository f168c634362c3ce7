"""Several threads a process: what adds in any order gives way to what does not, or is refused by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import jobs
from faults import hash_of, run
from unisono.runtime.supervisor.outcome import raise_failure

WORDS = 20_000


class LookedUp(nn.Module):
    """A table read by indexing, whose backward pass adds many rows into few."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.output = nn.Parameter(torch.randn(50, 8)), nn.Linear(8, jobs.CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        words = torch.randint(0, 50, (len(inputs), WORDS), generator=generator)
        scale = torch.rand(len(inputs), WORDS, 1, generator=generator)
        found: Tensor = self.output((self.table[words] * scale).sum(1) / WORDS + inputs[:, :8])
        return found


class Put(jobs.Mlp):
    """An operation that has no deterministic algorithm."""

    def forward(self, inputs: Tensor) -> Tensor:
        twice = torch.zeros(inputs.numel()).put_(torch.zeros(2, dtype=torch.int64), inputs[0, :2].detach())
        return super().forward(inputs) + twice.sum()


def test_a_table_s_gradient_is_the_same_each_time() -> None:
    job = jobs.make(LookedUp, steps=3, batch_size=8, microbatches=2)
    hashes = set()
    for _ in range(2):
        outcome, _, _ = run(job, 2, threads=2)
        raise_failure(outcome)
        hashes.add(hash_of(outcome))
    assert len(hashes) == 1


def test_a_run_in_this_process_leaves_its_settings_alone() -> None:
    outcome, _, _ = run(jobs.make(jobs.Mlp, steps=1), threads=2)
    raise_failure(outcome)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_cannot_be_repeated_is_refused_by_name() -> None:
    outcome, _, _ = run(jobs.make(Put), 1, threads=2)
    assert outcome.failure is not None
    assert "put_ has no such algorithm in PyTorch" in outcome.failure.message
    assert "--threads 1 and more workers" in outcome.failure.message
    outcome, _, _ = run(jobs.make(Put), 1, threads=1)
    raise_failure(outcome)
