"""`--layout auto`: every layout is tried, the fastest one taken."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

import jobs
import unisono
from faults import CORES
from unisono import Job
from unisono.errors import JobError
from unisono.partition.layout import Layout
from unisono.runs.execution import supervised
from unisono.runs.trial import candidates, fastest
from unisono.runtime.rules.request import Request


@pytest.mark.parametrize("workers", range(1, 13))
def test_candidates_use_every_worker(workers: int) -> None:
    found = candidates(workers)
    assert found[0] == Layout(workers)
    assert all(layout.workers == workers for layout in found)
    assert len(set(found)) == len(found) == sum(workers % n == 0 for n in range(1, workers + 1))


def tried(job: Job) -> tuple[Layout, list[str]]:
    messages: list[str] = []
    with supervised(job) as execution:
        return fastest(execution, Request(2, 1, CORES), messages.append), messages


def test_the_fastest_is_taken_and_each_is_named_with_its_time() -> None:
    chosen, messages = tried(jobs.make(jobs.Deep, evaluation=jobs.dataset))
    seconds = {}
    for layout, message in zip(candidates(2), messages, strict=False):
        name, time = message.removeprefix("layout ").removesuffix(" ms a step").split(": ")
        assert name == str(layout)
        seconds[layout] = float(time)
    assert seconds[chosen] == min(seconds.values())
    assert messages[-1] == f"going on with {chosen}, the fastest"


@pytest.mark.thorough
def test_a_layout_that_cannot_be_is_no_choice() -> None:
    chosen, messages = tried(jobs.make(microbatches=1))
    assert chosen == Layout(2)
    assert messages[1].startswith("layout data=1,pipeline=2 is no choice: a pipe needs at least as many microbatches")


def broken(outputs: Tensor, targets: Tensor) -> Tensor:
    raise ValueError("no loss today")


@pytest.mark.thorough
def test_a_job_that_fails_in_every_layout_fails_with_its_own_error() -> None:
    with pytest.raises(JobError, match="no loss today"):
        tried(jobs.make(loss=broken))


def test_a_run_with_auto_gives_the_bits_of_any_other(tmp_path: os.PathLike[str]) -> None:
    job = jobs.make(jobs.Deep)
    auto = unisono.train(job, workers=2, layout="auto", out=f"{tmp_path}/auto", live=False)
    assert auto.parameters_sha256 == unisono.train(job, workers=1, out=f"{tmp_path}/one", live=False).parameters_sha256
    assert torch.is_tensor(next(iter(auto.model("final").parameters())))
