"""Losses and gradients that are nothing or not finite: steps of weight 0, lost graphs, NaN, and what is kept then."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jobs
import unisono
from everywhere import hold_to_one_hash
from faults import Fault, run, undisturbed
from jobs import CLASSES, FEATURES, SAMPLES
from unisono.checkpoint import store
from unisono.errors import JobError
from unisono.frameworks.lossrules import check_loss
from unisono.gradients.arithmetic import all_finite

IGNORED = -100


def ignoring(whole: bool = True) -> Any:
    """Samples in order: of the first batch's first microbatch no target counts, of the second batch none does."""
    inputs, targets = jobs.dataset().tensors
    targets = targets.clone()
    targets[:4] = IGNORED
    if whole:
        targets[32:64] = IGNORED
    return torch.utils.data.TensorDataset(inputs, targets)


def summed(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return F.cross_entropy(outputs, targets, reduction="sum"), (targets != IGNORED).sum()


def right(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return (outputs.argmax(1) == targets).sum(), (targets != IGNORED).sum()


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 33), nn.BatchNorm1d(33), nn.Linear(33, CLASSES))


def counted(steps: int, **changes: Any) -> unisono.Job:
    return jobs.make(
        normed, loss=summed, data=ignoring, order="sequential", metrics={"accuracy": right}, steps=steps, **changes
    )


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_step_of_weight_0_changes_nothing(clip: float | None) -> None:
    """Parameters, statistics and optimizer state are those after the step before; the schedule has gone on."""
    first, records = run(counted(1, clip_norm=clip))[:2]
    both, more, _ = run(counted(2, clip_norm=clip, schedule=jobs.warm), 2)
    again, _, _ = run(counted(1, clip_norm=clip, schedule=lambda o, steps: jobs.warm(o, 2)))
    for name, value in again.state.saved(1).arrays.items():
        assert (both.state.saved(2).arrays[name] == value).all(), name
    for name, value in again.state.optimizer(1).arrays.items():
        assert (both.state.optimizer(2).arrays[name] == value).all(), name
    assert [record.get("skipped") for record in more] == [None, True]
    assert [record["learning_rate"] for record in more] == [0.025, 0.05]
    assert first.failure is None
    assert "skipped" not in records[0]


def test_steps_of_weight_0_are_counted_and_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_ = unisono.train(counted(10), out=tmp_path / "run", workers=1)
    out = run_.directory
    assert json.loads((out / "run.json").read_text())["skipped_steps"] == 3
    assert capfd.readouterr().out.count("weight 0") == 1
    lines = (out / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [record["loss"] is None for record in records] == [record.get("skipped", False) for record in records]
    assert records[1]["accuracy"] is None
    assert math.isnan(run_.history[1]["loss"])
    resumed = unisono.train(counted(14), resume=out, workers=2)
    assert json.loads((resumed.directory / "run.json").read_text())["skipped_steps"] == 4


def whole(model: nn.Module) -> torch.optim.Optimizer:
    return type("Mine", (torch.optim.NAdam,), {})(model.parameters(), lr=0.01)


@pytest.mark.few("whole")
@pytest.mark.parametrize(
    ("optimizer", "clip"), [(jobs.adamw, None), (jobs.adamw, 0.5), (whole, None)], ids=["listed", "clip", "whole"]
)
def test_one_hash_with_steps_of_weight_0(optimizer: Any, clip: float | None, tmp_path: Path) -> None:
    deaths = (Fault("microbatch", 2, 0), Fault("update", 1, 1), Fault("commit", 4, 0))  # slot 1 has the whole model
    hold_to_one_hash(counted(8, optimizer=optimizer, clip_norm=clip), tmp_path, deaths=deaths)


@pytest.mark.thorough
def test_one_hash_with_steps_of_weight_0_everywhere(tmp_path: Path) -> None:
    hold_to_one_hash(counted(8, optimizer=jobs.adamw), tmp_path, all_of_them=True)


def refusal(job: unisono.Job, workers: int = 0) -> str:
    outcome, _, _ = run(job, workers)
    assert outcome.failure is not None
    assert (outcome.steps_done, outcome.consistent) == (0, True)
    return outcome.failure.message


def test_a_mean_of_no_target_is_told_from_a_loss_that_grows() -> None:
    text = refusal(jobs.make(data=ignoring, order="sequential"), 2)
    assert "outputs are finite. If no target of this microbatch counts (all ignored), return (total, weight)" in text
    assert "step 1, microbatch 0" in text
    text = refusal(jobs.make(loss=lambda o, t: F.cross_entropy(o / 0, t)))
    assert "If no target" in text  # the outputs are what the model gave
    text = refusal(jobs.make(lambda: nn.Sequential(jobs.Mlp(), Infinite()), loss=F.cross_entropy))
    assert "If no target" not in text
    assert "Lower the learning rate" in text


class Infinite(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs / 0


@pytest.mark.parametrize(
    ("loss", "weight", "finite", "text"),
    [
        (
            1.0,
            float("nan"),
            None,
            "the weight of a loss must be finite, at least 0 and at most 9007199254740992; it is nan",
        ),
        (1.0, -1.0, None, "it is -1.0"),
        (float("nan"), 0.0, None, "of weight 0 it is nan.*Return the sum of the losses"),
        (float("nan"), 4.0, None, "If no target.*return \\(total, weight\\).*; else lower the learning rate"),
        (float("inf"), 4.0, True, "it is inf. Lower the learning rate"),
    ],
)
def test_what_a_loss_must_be(loss: float, weight: float, finite: bool | None, text: str) -> None:
    with pytest.raises(JobError, match=text):
        check_loss(loss, weight, lambda: finite)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda o, t: F.cross_entropy(o.detach(), t), "it is job.loss that loses the way"),
        (lambda o, t: torch.tensor(F.cross_entropy(o, t).item()), "it is job.loss that loses the way"),
        (lambda o, t: (o.argmax(1) - t).float().pow(2).mean(), "it is job.loss that loses the way"),
    ],
    ids=["detach", "item", "argmax"],
)
def test_a_loss_without_a_graph_is_refused(loss: Any, text: str) -> None:
    assert text in refusal(jobs.make(loss=loss))


def test_a_forward_pass_without_a_graph_is_refused() -> None:
    class Blind(jobs.Mlp):
        @torch.no_grad()
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs)

    assert "the forward pass loses the way" in refusal(jobs.make(Blind), 2)


def test_a_loss_of_weight_0_needs_no_graph() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> tuple[Any, Any]:
        return (0, 0) if not (targets != IGNORED).any() else summed(outputs, targets)

    kept = {"loss": loss, "data": ignoring, "order": "sequential", "model": normed}
    assert undisturbed(jobs.make(**kept))[0] == undisturbed(jobs.make(**{**kept, "loss": summed}))[0]


# -- gradients -------------------------------------------------------------------------------------------------


class Rooted(nn.Module):
    """From its third step on the gradient of its first layer is infinite and that of its last is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 33), nn.Linear(33, CLASSES)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.first(inputs)
        if self.calls > 2:
            hidden = hidden + (hidden * 0).abs().sqrt()
        out: Tensor = self.last(hidden)
        return out


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kept", [{"clip_norm": 1.0}, {"checked": True}], ids=["clip", "checked"])
def test_nothing_is_updated_where_norms_come_first(kept: dict[str, Any], workers: int) -> None:
    outcome, _, _ = run(jobs.make(Rooted, **kept), workers)
    assert outcome.failure is not None
    assert re.search("must be finite; of 'first.(weight|bias)' (660 of 660|33 of 33)", outcome.failure.message)
    assert "step 3" in outcome.failure.message
    assert (outcome.steps_done, outcome.consistent) == (2, True)
    expected, _, _ = run(jobs.make(Rooted, steps=2, **kept))
    for name, value in expected.state.saved(2).arrays.items():
        assert (outcome.state.saved(2).arrays[name] == value).all(), name


@pytest.mark.parametrize("debug", [False, True])
def test_a_round_with_such_a_gradient_is_never_committed(debug: bool, tmp_path: Path) -> None:
    """Other slices may have been updated: nothing of the step is kept, and the newest sound checkpoint is named."""
    settings = {"out": tmp_path / "run", "checkpoint_every": 1, "debug": debug, "workers": 1 if debug else 2}
    with pytest.raises(
        JobError, match=r"(?s)of 'first.*the newest sound checkpoint is that after step ([12])"
    ) as found:
        unisono.train(jobs.make(Rooted, optimizer=last_first), **settings)
    checkpoint, damage = store.newest_sound(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    step = checkpoint.standing.step  # that of step 2 is left out where the disk is slow
    assert f"after step {step}" in str(found.value)
    assert (step in (1, 2), damage) == (True, [])
    assert not (tmp_path / "run" / "parameters.safetensors").exists()
    expected, _, _ = run(jobs.make(Rooted, steps=step, optimizer=last_first))
    for name, value in expected.state.saved(step).arrays.items():
        assert (checkpoint.parameters.arrays[name] == value).all(), name


def last_first(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Two optimizers, so that the last layer's chunk is updated before the first layer's is refused."""
    return [torch.optim.SGD(model.last.parameters(), lr=0.1), torch.optim.SGD(model.first.parameters(), lr=0.1)]


def test_large_numbers_are_finite() -> None:
    values = np.full(SAMPLES, 1e30, np.float32)
    assert all_finite(values)
    for wrong in (np.inf, -np.inf, np.nan):
        values[7] = wrong
        assert not all_finite(values)
