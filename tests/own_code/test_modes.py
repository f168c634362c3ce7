"""Modes: each module trains in the mode in which `model()` left it, whatever has been evaluated between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

import jobs
from everywhere import hold_to_one_hash
from faults import run, undisturbed
from frameworks.loops.pytorch import Loop
from held import hold
from jobs import CLASSES, FEATURES, dataset
from unisono.frameworks.pytorch.modes import Modes
from unisono.runtime.supervisor.outcome import raise_failure


def frozen() -> nn.Module:
    """Batch normalization that keeps the statistics it has, and dropout that does nothing."""
    model = nn.Sequential(
        nn.Linear(FEATURES, 33), nn.BatchNorm1d(33), nn.Dropout(0.5), nn.Dropout(0.2), nn.Linear(33, CLASSES)
    )
    model[1].eval().requires_grad_(False)
    model[2].eval()
    return model


class OwnTrain(nn.Module):
    """Freezes its normalization each time it is told to train, as detection models do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, CLASSES)

    def train(self, mode: bool = True) -> OwnTrain:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(inputs))
        return out


def ready_made() -> nn.Module:
    """A model in evaluation mode as a whole, as it comes from a library of weights."""
    return nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Dropout(0.5), nn.Linear(FEATURES, CLASSES)).eval()


@pytest.mark.few("frozen")
@pytest.mark.parametrize("model", [frozen, OwnTrain, ready_made], ids=["frozen", "own", "ready"])
def test_one_hash_whatever_is_evaluated_between(model: type[nn.Module], tmp_path: Path) -> None:
    job = jobs.make(model, evaluation=dataset, evaluate_every=4)
    assert hold_to_one_hash(job, tmp_path) == undisturbed(jobs.make(model))[0]


@pytest.mark.thorough
def test_one_hash_everywhere(tmp_path: Path) -> None:
    hold_to_one_hash(jobs.make(frozen, evaluation=dataset, evaluate_every=4), tmp_path, all_of_them=True)


@pytest.mark.parametrize("model", [OwnTrain, ready_made], ids=["own", "ready"])
def test_a_plain_loop_that_calls_train_has_these_values(model: type[nn.Module]) -> None:
    hold(jobs.make(model), Loop, tolerance=0)


def test_modes_are_those_of_the_beginning() -> None:
    model = frozen()
    modes = Modes(model)
    found = [module.training for module in model]
    assert found == [True, False, False, True, True]
    modes.evaluate()
    assert not any(module.training for module in model.modules())
    model[1].train()  # as a forward pass may do
    modes.train()
    assert [module.training for module in model] == found
    assert [module.training for module in OwnTrain().train().modules()] == [True, False, True]
    model = OwnTrain()
    Modes(model)
    assert not model.norm.training
    Modes(model := ready_made())
    assert all(module.training for module in model.modules())


class Forces(nn.Module):
    """The gradient of an energy by the inputs, in training and in evaluation; buffers count the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 8), nn.Linear(8, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.forces(inputs.requires_grad_()) + self.calls

    def forces(self, inputs: Tensor) -> Tensor:
        energy = self.last(torch.tanh(self.first(inputs))).sum()
        return torch.autograd.grad(energy, inputs, create_graph=True)[0]


class OfAskedInputs(Forces):
    """The same of inputs that `collate` has asked for gradients of."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.forces(inputs) + self.calls


def asking(samples: list[Any]) -> Any:
    inputs, targets = default_collate(samples)
    return inputs.requires_grad_(), targets


def distance(forces: Tensor, targets: Tensor) -> Tensor:
    return (forces - targets[:, None] / 5).pow(2).mean()


@pytest.mark.parametrize(("model", "collate"), [(Forces, None), (OfAskedInputs, asking)], ids=["inside", "collate"])
def test_what_differentiates_is_evaluated_too(model: Any, collate: Any, tmp_path: Path) -> None:
    """What is drawn is what the first attempt would draw; a buffer is for each microbatch what it was."""
    drawn = {"drawn": lambda o, t: (torch.rand(()), 1)}
    job = jobs.make(model, loss=distance, collate=collate, evaluation=dataset, metrics=drawn)
    _, records = undisturbed(job)
    outcome, found, _ = run(job, 3)
    raise_failure(outcome)
    values = [record for record in records if "evaluation/loss" in record]
    assert values == [record for record in found if "evaluation/loss" in record] != []
    hold_to_one_hash(job, tmp_path)


def test_another_error_of_an_evaluation_is_the_jobs_own() -> None:
    class Wrong(jobs.Mlp):
        def forward(self, inputs: Tensor) -> Tensor:
            if not self.training:
                raise RuntimeError("no evaluation today")
            return super().forward(inputs)

    outcome, _, _ = run(jobs.make(Wrong, evaluation=dataset))
    assert outcome.failure is not None
    assert "no evaluation today" in outcome.failure.traceback
