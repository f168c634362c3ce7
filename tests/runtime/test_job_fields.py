"""What each field of a job does, seen from its records; and what is refused once the model is there."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import jobs
from unisono import Job, UsageError, by_length
from unisono.errors import JobError
from unisono.observe.progress import Silent
from unisono.runs.execution import execute
from unisono.runs.observation import Observation
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.outcome import raise_failure
from warm import host_for


def records(job: Job, workers: int = 0) -> list[dict[str, Any]]:
    seen = Observation(job, Silent())
    host = host_for(job) if workers else None
    raise_failure(execute(job, Request(max(workers, 1), 1, (0, 1)), seen, debug=workers == 0, host=host))
    return seen.records


class Noisy(Dataset[tuple[Tensor, int]]):
    """A random transform that draws from all three generators."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(20) * random.random() * float(np.random.rand()) + index / 60, index % 5


def mixing(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """A collate that draws."""
    inputs = torch.stack([sample[0] for sample in samples])
    return inputs * torch.rand(()), torch.tensor([sample[1] for sample in samples])


@pytest.mark.few("mixing")
@pytest.mark.parametrize("collate", [None, mixing])
def test_random_transforms_are_keyed_by_sample(collate: Any) -> None:
    job = jobs.make(data=Noisy, collate=collate, order=by_length(range(60), 32))
    one, three = records(job), records(job, 3)
    assert [record["loss"] for record in one] == [record["loss"] for record in three]


def test_a_dataset_gives_the_same_samples_as_torch_with_the_same_seed() -> None:
    job = jobs.make(data=Noisy, order="sequential", batch_size=4, microbatches=1, steps=30)
    losses = [record["loss"] for record in records(job)]
    assert losses[0] != losses[15], "each epoch draws anew"


class Count:
    """A metric object: how many samples came, and whether in order."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.seen: list[int] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.seen += targets.tolist()

    def compute(self) -> dict[str, Any]:
        in_order = self.seen == jobs.dataset(37).tensors[1].tolist()
        return {"samples": len(self.seen), "in_order": torch.tensor([float(in_order)])}


def positive(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch.zeros(len(inputs), jobs.CLASSES)


def zero(outputs: Tensor, targets: Tensor) -> tuple[float, int]:
    return float((outputs == 0).all()), 1


@pytest.mark.parametrize("workers", [0, 3])
def test_evaluation_sets_metric_objects_and_predict(workers: int) -> None:
    job = jobs.make(
        evaluation={"near": lambda: jobs.dataset(37), "far": lambda: jobs.dataset(37)},
        evaluate_every=4, metrics={"count": Count(), "zero": zero}, predict=positive,
    )  # fmt: skip
    found = [record for record in records(job, workers) if "loss" not in record]
    assert [record["step"] for record in found] == [4, 4, 6, 6]
    assert found[0]["evaluation/near/count/samples"] == 37
    assert found[0]["evaluation/near/count/in_order/0"] == 1
    assert found[1]["evaluation/far/zero"] == 1


def plateau(optimizer: Any, steps: int) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=0, threshold=1e9, threshold_mode="abs"
    )


def test_plateau_schedules_follow_the_evaluation_loss() -> None:
    job = jobs.make(schedule=plateau, evaluation=jobs.dataset, evaluate_every=2)
    rates = [record["learning_rate"] for record in records(job) if "loss" in record]
    assert rates == pytest.approx([0.05, 0.05, 0.05, 0.05, 0.005, 0.005])


def test_schedules_count_global_steps() -> None:
    def halve(optimizer: Any, steps: int) -> Any:
        assert steps == 6
        return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)

    rates = [record["learning_rate"] for record in records(jobs.make(schedule=halve), 2)]
    assert rates == pytest.approx([0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125])


def test_drop_last_and_epochs() -> None:
    assert len(records(jobs.make(steps=None, epochs=2))) == 8
    assert len(records(jobs.make(steps=None, epochs=2, drop_last=True))) == 6


def test_inputs_are_spread_by_their_kind() -> None:
    class Two(jobs.Mlp):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(left + right)

    def as_tuple(samples: Any) -> Any:
        inputs, targets = mixing(samples)
        return (inputs, inputs), targets

    def as_mapping(samples: Any) -> Any:
        inputs, targets = mixing(samples)
        return {"right": inputs, "left": inputs}, targets

    one = records(jobs.make(Two, collate=as_tuple))
    assert one[-1]["loss"] == records(jobs.make(Two, collate=as_mapping))[-1]["loss"]


def lbfgs(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(model.parameters())


def overlapping(model: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(model.parameters(), lr=0.1)]


def frozen(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p.requires_grad_(False) for p in model.parameters()], lr=0.1)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": dict}, "must return a model of a framework that Unisono knows"),
        ({"optimizer": lbfgs}, "LBFGS"),
        ({"optimizer": overlapping}, "share some"),
        ({"optimizer": lambda model: 3}, "received int"),
        ({"optimizer": frozen}, "nothing to train"),
        ({"model": lambda: jobs.Mlp().to(torch.bfloat16)}, "bfloat16"),
        ({"data": lambda: []}, "empty"),
        ({"data": lambda: iter([1])}, "integer indexing"),
        ({"data": lambda: jobs.dataset(5), "drop_last": True}, "drop_last"),
        ({"order": lambda epoch, rng: list(range(50 + epoch))}, "as many indices each epoch"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises((UsageError, JobError), match=text):
        records(jobs.make(**changes))


def test_samples_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="pair; sample"):
        records(jobs.make(data=[torch.zeros(3)] * 40))


def test_targets_may_be_none() -> None:
    job = jobs.make(data=[(torch.ones(20) * number, None) for number in range(40)], loss=lambda o, t: o.square().mean())
    assert len(records(job, 2)) == 6
