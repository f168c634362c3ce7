"""What is done each step, or while everybody waits, grows as the model and the world do, and no faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unisono
from counting import is_linear
from products import DESCRIPTION, shape
from unisono import Job
from unisono.memory.segment import Segment
from unisono.runtime.rules.plan import Plan, even
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import host_layout
from unisono.runtime.supervisor.running import Running


def running(slots: int, members: tuple[int, ...]) -> Callable[[], object]:
    """What its supervisor asks about a running job whose slots have computed."""
    layout = host_layout(DESCRIPTION, shape(1, slots, slots))
    state = HostState(layout, Segment.create(layout.segment))
    plan = Plan(0, even(slots, slots), members)
    state.plans.stamp(plan)
    state.segment["summed"][:, 0] = 1
    training: Any = SimpleNamespace(
        layout=layout, program=SimpleNamespace(next=lambda _: SimpleNamespace(evaluation=None))
    )
    run = Running(training, state, lambda record: None)
    return lambda: run.standings(plan, clipped=True)


def test_a_look_at_all_workers_takes_each_word_once() -> None:
    assert is_linear(lambda slots: running(slots, tuple(range(slots))), 32)
    assert is_linear(lambda slots: running(slots, (0,) * slots), 32)


class Many(nn.Module):
    """As many parameters as one likes, and as many buffers."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(2)) for _ in range(count))
        for number in range(count):
            self.register_buffer(f"seen{number}", torch.zeros(2))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.out(inputs)
        return outputs * torch.stack(list(self.scales)).mean(0)


class Kept(torch.optim.AdamW):
    """A class that is not listed: its whole state is kept as a tree."""


def trained(count: int, optimizer: type[torch.optim.AdamW], folder: Path) -> Callable[[], object]:
    """Two steps with a checkpoint after each, and two more of the resumed run, in this process."""
    inputs = torch.linspace(-1, 1, 64).reshape(16, 4)
    data = list(zip(inputs, (inputs.sum(1) > 0).long(), strict=True))

    def job(steps: int) -> Job:
        return Job(
            model=lambda: Many(count), loss=F.cross_entropy, optimizer=lambda model: optimizer(model.parameters()),
            data=data, batch_size=4, microbatches=2, steps=steps, clip_norm=1.0,
        )  # fmt: skip

    def call() -> None:
        unisono.train(job(2), out=folder, debug=True, checkpoint_every=1)
        unisono.train(job(4), resume=folder, debug=True)

    return call


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, Kept])
def test_a_model_of_many_parameters(optimizer: type[torch.optim.AdamW], tmp_path: Path) -> None:
    trained(1, optimizer, tmp_path / "first")()  # what is done once
    assert is_linear(lambda count: trained(count, optimizer, tmp_path / f"{count}"), 80)
