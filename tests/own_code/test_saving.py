"""Modules that save themselves in another form than they hold: all that they hold is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import jobs
import unisono
from everywhere import hold_to_one_hash
from faults import run
from jobs import CLASSES, FEATURES
from unisono.errors import UsageError


class Halves(nn.Linear):
    """Saves its weight in two pieces, as fused projections do."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight = destination.pop(prefix + "weight")
        destination[prefix + "low"], destination[prefix + "high"] = weight[:2], weight[2:]


class Renamed(nn.Linear):
    """Saves its weight under another name."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "kernel"] = destination.pop(prefix + "weight")


class Adapted(nn.Module):
    """Saves what is trained alone."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.adapter = nn.Linear(FEATURES, 33).requires_grad_(False), nn.Linear(33, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.adapter(self.base(inputs))
        return out

    def state_dict(self, *arguments: Any, **more: Any) -> Any:
        return {n: t for n, t in super().state_dict(*arguments, **more).items() if n.startswith("adapter")}


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"version": 3}


KINDS = {
    "halves": (lambda: nn.Sequential(Halves(FEATURES, CLASSES)), ["0.bias", "0.weight"]),
    "renamed": (lambda: nn.Sequential(Renamed(FEATURES, CLASSES)), ["0.bias", "0.kernel"]),
    "adapted": (Adapted, ["adapter.bias", "adapter.weight", "base.bias", "base.weight"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_a_module_holds_comes_back(kind: str, tmp_path: Path) -> None:
    model, names = KINDS[kind]
    job = jobs.make(model, steps=6)
    whole = unisono.train(job, out=tmp_path / "whole", debug=True)
    assert sorted(load_file(whole.directory / "parameters.safetensors")) == names
    half = unisono.train(jobs.make(model, steps=3), out=tmp_path / "half", debug=True)
    resumed = unisono.train(job, resume=half.directory, debug=True)
    assert resumed.parameters_sha256 == whole.parameters_sha256
    ours, made = dict(resumed.model("final").named_parameters()), dict(whole.model("final").named_parameters())
    assert all(torch.equal(ours[name], made[name]) for name in made)


def test_state_that_is_no_tensor_is_named() -> None:
    with pytest.raises(UsageError, match=r"'0' has a get_extra_state.*register_buffer"):
        run(jobs.make(lambda: nn.Sequential(Extra(FEATURES, CLASSES))))


class Batch(NamedTuple):
    """Inputs that are one thing, as torch's PackedSequence is."""

    values: Tensor
    scale: Tensor


class OnBatch(nn.Linear):
    def forward(self, batch: Any) -> Tensor:
        assert type(batch) is Batch
        return super().forward(batch.values * batch.scale)


def named(samples: Any) -> Any:
    inputs, targets = torch.utils.data.default_collate(samples)
    return Batch(inputs, torch.ones(len(inputs), 1)), targets


def test_a_named_tuple_is_one_input(tmp_path: Path) -> None:
    hold_to_one_hash(jobs.make(lambda: OnBatch(FEATURES, CLASSES), collate=named), tmp_path)
