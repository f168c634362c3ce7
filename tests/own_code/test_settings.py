"""What a script has set for its whole process is set where its job is trained."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import jobs
from faults import hash_of, run, undisturbed
from unisono.frameworks.registry import framework
from unisono.runtime.supervisor.outcome import raise_failure


@pytest.fixture
def doubles() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def made() -> nn.Module:
    return nn.Sequential(nn.Linear(jobs.FEATURES, jobs.CLASSES))


def test_the_default_dtype_reaches_workers(doubles: None) -> None:
    job = jobs.make(model=made, forward=lambda model, inputs: model(inputs.to(torch.float64)), steps=3)
    expected, _ = undisturbed(job)
    outcome, _, _ = run(job, 2)
    raise_failure(outcome)
    assert outcome.described.layout.description.parameters[0].dtype == "float64"
    assert hash_of(outcome) == expected


def test_whether_denormal_numbers_are_zero_reaches_workers() -> None:
    job = jobs.make(model=made, forward=lambda model, inputs: model(inputs * 1e-40 * 1e38), steps=3)
    as_usual, _ = undisturbed(job)
    torch.set_flush_denormal(True)
    try:
        expected, _ = undisturbed(job)
        outcome, _, _ = run(job, 2)
    finally:
        torch.set_flush_denormal(False)
    raise_failure(outcome)
    assert hash_of(outcome) == expected != as_usual


@pytest.mark.parametrize("package", ["pytorch", pytest.param("jax", marks=pytest.mark.thorough),
                                     pytest.param("keras", marks=pytest.mark.thorough)])  # fmt: skip
def test_settings_are_set_as_they_were(package: str) -> None:
    data = framework(package).data
    before = data.settings()
    data.settle(before)
    assert data.settings() == before
