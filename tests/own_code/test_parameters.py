"""Parameters of any shape: without dimensions (a logit scale), and without elements."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed in this environment", allow_module_level=True)

import torch
import torch.nn.functional as F
from torch import nn

from everywhere import hold_to_one_hash
from frameworks.loops.pytorch import Loop
from held import hold
from unisono import Job

SAMPLES = list(zip(torch.randn(96, 8, generator=torch.Generator().manual_seed(0)),
                   torch.randint(0, 3, (96,), generator=torch.Generator().manual_seed(1)), strict=True))  # fmt: skip


class Scaled(nn.Module):
    """Logits times a scale that is learnt, and a parameter of no elements."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.7, dtype=dtype))
        self.layer = nn.Linear(8, 3, dtype=dtype)
        self.none = nn.Parameter(torch.zeros(0, 5, dtype=dtype))

    def forward(self, inputs: Any) -> Any:
        return self.layer(inputs.to(self.scale.dtype)) * self.scale.exp() + self.none.sum()


class Momentum(torch.optim.Optimizer):
    """A class of no library."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.05})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            state = self.state[p]
            state["m"] = state.get("m", torch.zeros_like(p)).mul(0.9).add_(p.grad)
            p.sub_(state["m"], alpha=0.05)


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    **{kind.__name__: kind for kind in (
        torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.Adadelta,
        torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax, torch.optim.ASGD, torch.optim.Rprop, Momentum,
    )},
    "SGD": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9),
    "amsgrad": lambda params: torch.optim.Adam(params, amsgrad=True),
}  # fmt: skip


def job(name: str, dtype: torch.dtype = torch.float32) -> Job:
    return Job(model=lambda: Scaled(dtype), loss=F.cross_entropy, data=SAMPLES, batch_size=32, microbatches=4, steps=6,
               optimizer=lambda model: OPTIMIZERS[name](model.parameters()))  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_of_any_shape_train_as_in_a_plain_loop(name: str) -> None:
    hold(job(name, torch.float64 if name in ("Adam", "Momentum") else torch.float32), Loop, 0.0)


@pytest.mark.few("Adam", "Momentum")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_of_any_shape_outlive_workers(name: str, tmp_path: Path) -> None:
    hold_to_one_hash(job(name), tmp_path, deaths=())


def test_adafactor_needs_no_state_of_what_has_no_elements(tmp_path: Path) -> None:
    """Its own step divides by their number."""
    OPTIMIZERS["Adafactor"] = torch.optim.Adafactor
    hold_to_one_hash(job("Adafactor"), tmp_path, deaths=())
