"""Parameters that a forward pass changes, or that share memory: refused by name, and nothing of the step is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jobs
import unisono
from counting import lines_of
from everywhere import hold_to_one_hash
from faults import run
from jobs import CLASSES, FEATURES
from unisono.errors import JobError, UsageError
from unisono.frameworks.pytorch.watching import Watch, check_buffers, check_memory

LATE = 3
"""The step in which those change something that are not at it from the first."""


class Changing(nn.Module):
    """Changes something of itself in its third step.

    Args:
        how: in which way.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.last = nn.Linear(FEATURES, 33), nn.Linear(33, CLASSES)
        self.teacher = nn.Linear(33, CLASSES).requires_grad_(False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.zeros(3))
        self.register_buffer("none", None)

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == LATE:
            with torch.no_grad():
                self.change()
        out: Tensor = self.last(self.first(inputs))
        return out

    def change(self) -> None:
        weight, teacher = self.first.weight, self.teacher.weight
        if self.how == "in place":
            weight.clamp_(-0.1, 0.1)
        elif self.how == "by data":
            weight.data.mul_(0.5)
        elif self.how == "other data":
            teacher.data = 0.9 * teacher.data + 0.1 * self.last.weight.data
        elif self.how == "another":
            self.first.weight = nn.Parameter(weight.detach() / 2)
        elif self.how == "one more":
            self.more = nn.Parameter(torch.ones(3))
        elif self.how == "a layer":
            self.more = nn.Linear(3, 3)
        elif self.how == "freeze":
            weight.requires_grad_(False)
        elif self.how == "shape":
            self.table = torch.zeros(5)
        elif self.how == "none":
            self.none = torch.zeros(5)
        elif self.how == "dtype":
            self.table = self.table.double()


WAYS = {
    "in place": "changed 'first.weight'", "by data": "changed 'first.weight'", "other data": "changed 'teacher.weight'",
    "another": "put others in their places", "one more": "put others in their places",
    "a layer": "put others in their places", "freeze": "changed requires_grad of 'first.weight'",
    "shape": "those of 'table'", "none": "those of 'none'", "dtype": "those of 'table'",
}  # fmt: skip


@pytest.mark.few("in place", "by data", "other data", "another", "shape")
@pytest.mark.parametrize("how", WAYS)
def test_what_a_forward_pass_changes_is_refused_when_it_shows(how: str) -> None:
    for workers in (0, 2):
        outcome, _, _ = run(jobs.make(lambda: Changing(how)), workers)
        assert outcome.failure is not None
        assert WAYS[how] in outcome.failure.message
        assert f"step {LATE}" in outcome.failure.message
        assert (outcome.steps_done, outcome.consistent) == (LATE - 1, False)


def test_a_look_at_many_parameters_is_a_look_at_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two passes of a step it is the only thing that another process may have changed."""
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(50)))
    watch = Watch(model, list(model.named_parameters()))
    watch.check(watch.look())
    looks: list[None] = []
    monkeypatch.setattr(watch, "_seen", lambda: looks.append(None) or Watch._seen(watch))
    assert lines_of(watch.look) < 10
    assert not looks
    with torch.no_grad():
        model[7].bias.zero_()
    watch.forget()
    before = watch.look()
    watch.check(before)
    assert len(looks) == 2
    model[40].bias.data.zero_()
    with pytest.raises(JobError, match=r"changed '40\.bias'"):
        watch.check(before)


class Frozen:
    """A schedule that stops training a layer after three steps."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.weight, self.steps = optimizer.param_groups[0]["params"][0], 0

    def step(self) -> None:
        self.steps += 1
        self.weight.requires_grad_(self.steps < 3)


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_what_a_schedule_freezes_stays_as_it_is(everywhere: bool, tmp_path: Path) -> None:
    schedule = lambda optimizer, steps: Frozen(optimizer)  # noqa: E731
    hold_to_one_hash(jobs.make(jobs.Mlp, schedule=schedule), tmp_path, all_of_them=everywhere)


def test_no_checkpoint_of_such_a_step_is_kept(tmp_path: Path) -> None:
    """That of step 2 may have been copied while the parameters were changed; that of step 1 is sound."""
    with pytest.raises(JobError, match="the newest sound checkpoint is that after step 1"):
        unisono.train(jobs.make(lambda: Changing("in place")), out=tmp_path / "run", debug=True, checkpoint_every=1)


class Teacher(nn.Module):
    """A teacher that follows by a moving average, kept as buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("teacher", self.last.weight.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        self.teacher = 0.9 * self.teacher + 0.1 * self.last.weight.detach()
        out: Tensor = self.last(inputs) - 0.1 * nn.functional.linear(inputs, self.teacher)
        return out


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_a_teacher_in_buffers_follows_as_in_a_plain_loop(everywhere: bool, tmp_path: Path) -> None:
    """Each microbatch makes the same of it, and the mean of equals is what they are, bit for bit."""
    hold_to_one_hash(jobs.make(Teacher), tmp_path, all_of_them=everywhere)
    outcome, _, _ = run(jobs.make(Teacher, steps=1))
    first = torch.nn.Module.state_dict(_seeded())
    expected = 0.9 * first["teacher"] + 0.1 * first["last.weight"]
    assert torch.equal(torch.from_numpy(outcome.state.saved(1).arrays["teacher"]), expected)


def _seeded() -> nn.Module:
    torch.manual_seed(0)
    return Teacher()


def _overlapping(kind: str) -> nn.Module:
    model, flat = nn.Module(), torch.linspace(-1, 1, 128)
    if kind == "same":
        model.a = nn.Parameter(torch.eye(8))
        model.b = nn.Parameter(model.a.data)
    elif kind == "partly":
        model.a, model.b = nn.Parameter(flat[:80]), nn.Parameter(flat[60:])
    elif kind == "buffer":
        model.a = nn.Parameter(flat)
        model.register_buffer("b", flat[3:9])
    elif kind == "expanded":
        model.a = nn.Parameter(torch.ones(1, 8).expand(8, 8))
    elif kind == "sparse":
        model.a = nn.Parameter(torch.eye(8).to_sparse(), requires_grad=False)
    elif kind == "lazy":
        model.a = nn.LazyLinear(3)
    elif kind == "apart":
        model.a, model.b = nn.Parameter(flat[:64].view(8, 8)), nn.Parameter(flat[64:].view(8, 8))
        model.c = nn.Parameter(torch.ones(3, 4).t())
        model.tied = model.a
        model.register_buffer("d", torch.ones(24))
        model.register_buffer("e", model.d[:8])
    return model


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("same", "'a' and 'b' overlap"), ("partly", "'a' and 'b' overlap"), ("buffer", "'a' and 'b' overlap"),
        ("expanded", "'a' is expanded"), ("sparse", "'a' is torch.sparse"), ("lazy", "'a.weight' has none"),
    ],
)  # fmt: skip
def test_parameters_have_memory_of_their_own(kind: str, text: str) -> None:
    model = _overlapping(kind)
    with pytest.raises(UsageError, match=text):
        check_memory(model, list(model.named_parameters()))


def test_views_that_do_not_overlap_are_parameters_like_others() -> None:
    model: Any = _overlapping("apart")
    check_memory(model, list(model.named_parameters()))


class Ordered(nn.Module):
    """Buffers whose memory is not in order, and one that a forward pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("transposed", torch.linspace(-1, 1, 3 * FEATURES).reshape(3, FEATURES).t())
        self.register_buffer("expanded", torch.ones(1).expand(FEATURES))

    def forward(self, inputs: Tensor) -> Tensor:
        self.transposed.mul_(0.9)
        out: Tensor = self.last(inputs * self.transposed.mean(1) * self.expanded)
        return out


def test_buffers_need_not_be_in_order(tmp_path: Path) -> None:
    hold_to_one_hash(jobs.make(Ordered), tmp_path)


@pytest.mark.parametrize(
    "buffer",
    [torch.view_as_complex(torch.ones(8, 2)).conj(), torch.ones(8).to(torch.float8_e4m3fn)],
    ids=["conjugate", "float8"],
)
def test_buffers_that_numpy_cannot_lie_over_are_named(buffer: Tensor) -> None:
    model = nn.Module()
    model.register_buffer("kept", buffer)
    with pytest.raises(UsageError, match=r"buffers are plain tensors.*'kept' is"):
        check_buffers(model)
