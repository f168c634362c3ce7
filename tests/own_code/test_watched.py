"""Evaluation values that something follows: what is best, patience, and schedules that wait for a plateau."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jobs
import unisono
from everywhere import hold_to_one_hash
from faults import run, undisturbed
from jobs import CLASSES, FEATURES, dataset
from unisono.errors import UsageError
from unisono.job import Job
from unisono.runtime.worker.evaluation import named_by_best


class Rising(nn.Module):
    """Counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return torch.cat([self.last(inputs), self.steps.float().expand(len(inputs), 1)], 1)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs[:, :CLASSES], targets)


def late(outputs: Tensor, targets: Tensor) -> tuple[Any, Any]:
    """Of nothing until the third step, then the number of steps until the fifth, then less."""
    step = float(outputs[0, -1])
    return (min(step, 10 - step), 1) if step > 2 else (0, 0)


def watched(**changes: Any) -> Job:
    fields = {"loss": loss, "metrics": {"late": late}, "evaluation": dataset, "evaluate_every": 1, "steps": 8}
    return jobs.make(Rising, **{**fields, **changes})


def test_what_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    run_ = unisono.train(watched(best=("max", "late")), out=tmp_path / "run", workers=1)
    lines = (run_.directory / "metrics.jsonl").read_text().splitlines()
    values = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [value["evaluation/late"] for value in values if "loss" not in value] == [None, None, 3, 4, 5, 4, 3, 2]
    best = json.loads((run_.directory / "run.json").read_text(), parse_constant=pytest.fail)["best"]
    assert (best["value"], best["step"]) == (5, 5)


def test_patience_counts_what_is_not_a_number(tmp_path: Path) -> None:
    run_ = unisono.train(watched(best=("min", "late"), patience=2), out=tmp_path / "run", workers=1)
    assert len([record for record in run_.history if "loss" in record]) == 2


@pytest.mark.parametrize(
    ("best", "text"),
    [
        (("max", "late"), r"sets as SET/METRIC; received 'late', there are .*one/late.*Write best=\('max', 'one/late'"),
        (("min", "two/nothing"), "received 'two/nothing'"),
        (("min", "three/loss"), "received 'three/loss'"),
    ],
)  # fmt: skip
def test_best_of_named_sets_names_the_set(best: tuple[str, str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        run(watched(best=best, evaluation={"one": dataset, "two": dataset}))
    with pytest.raises(UsageError, match=text):
        run(watched(best=best, evaluation=lambda: {"one": dataset(), "two": dataset()}))


class Vector:
    """A metric object of three values."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        pass

    def compute(self) -> Tensor:
        return torch.arange(3.0)

    def reset(self) -> None:
        pass


def test_best_may_name_a_value_of_a_metric_object() -> None:
    sets = {"one": dataset, "two": dataset}
    job = watched(metrics={"vector": Vector()}, best=("max", "two/vector/1"), evaluation=sets)
    assert named_by_best(job, ["one", "two"]) == (1, "evaluation/two/vector/1")
    outcome, _, _ = run(job)
    assert outcome.failure is None
    assert outcome.state.segment["watched"].tolist() == [1.0] * 8
    outcome, _, _ = run(watched(metrics={"vector": Vector()}, best=("max", "vector/3")))
    assert outcome.failure is not None
    assert "received 'vector/3', there are loss, vector/0, vector/1, vector/2" in outcome.failure.message


# -- plateaus --------------------------------------------------------------------------------------------------


def waits(mode: str) -> Any:
    def schedule(optimizer: torch.optim.Optimizer, steps: int) -> Any:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=0)

    return schedule


def rates(job: Job) -> list[float]:
    return [record["learning_rate"] for record in undisturbed(job)[1] if "loss" in record]


def test_a_plateau_follows_the_value_that_best_names() -> None:
    """It grows until step 5 and falls from then on; while it is not a number, that is no better either."""
    found = rates(watched(schedule=waits("max"), best=("max", "late")))
    assert found[3:6] == [found[3]] * 3
    assert found[6:] == [found[3] / 2, found[3] / 4]
    falling = rates(watched(schedule=waits("min"), best=("max", "late")))
    assert falling == rates(watched(schedule=waits("min")))


def test_a_plateau_follows_a_later_set_too() -> None:
    sets = {"one": dataset, "two": dataset}
    found = rates(watched(schedule=waits("max"), best=("max", "two/late"), evaluation=sets))
    assert found == rates(watched(schedule=waits("max"), best=("max", "late")))


def test_what_a_plateau_cannot_follow_is_refused() -> None:
    with pytest.raises(UsageError, match=r"mode='max'. follows the value that job.best names.*received best=None"):
        run(watched(schedule=waits("max")))
    with pytest.raises(UsageError, match=r"received best=\('min', 'late'\)"):
        run(watched(schedule=waits("max"), best=("min", "late")))
    with pytest.raises(UsageError, match=r"job.evaluation is None"):
        run(watched(schedule=waits("min"), evaluation=None))


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_one_hash_with_a_plateau_of_what_grows(everywhere: bool, tmp_path: Path) -> None:
    job = watched(schedule=waits("max"), best=("max", "late"), evaluate_every=4)
    hold_to_one_hash(job, tmp_path, all_of_them=everywhere)


def test_a_resumed_run_goes_on_with_the_plateau(tmp_path: Path) -> None:
    whole = unisono.train(watched(schedule=waits("max"), best=("max", "late")), out=tmp_path / "whole", workers=1)
    job = watched(schedule=waits("max"), best=("max", "late"), steps=6)
    part = unisono.train(job, out=tmp_path / "part", workers=1)
    resumed = unisono.train(watched(schedule=waits("max"), best=("max", "late")), resume=part.directory, workers=2)
    assert resumed.parameters_sha256 == whole.parameters_sha256
