"""The promise: the same bits on any number of workers, for every kind of job."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import jobs
from frameworks.loops.pytorch import TOLERANCE, Loop
from held import hold
from unisono import Job
from unisono.checkpoint.parameters import sha256_of
from unisono.frameworks.pytorch.model import Adapter
from unisono.observe.progress import Silent
from unisono.runs.execution import execute
from unisono.runs.observation import Observation
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.outcome import raise_failure
from warm import host_for


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def result(job: Job, workers: int, device: str | None = None) -> tuple[str, list[dict[str, Any]]]:
    seen = Observation(job, Silent())
    host = host_for(job) if workers else None
    outcome = execute(job, Request(max(workers, 1), 1, (0, 1), device=device), seen, debug=workers == 0, host=host)
    raise_failure(outcome)
    keep = ("step", "loss", "gradient_norm", "accuracy", "evaluation/loss", "evaluation/accuracy")
    records = [{k: v for k, v in record.items() if k in keep} for record in seen.records]
    return sha256_of(outcome.state.saved(outcome.steps_done)), records


def token_loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    losses = F.cross_entropy(outputs, targets, reduction="none", ignore_index=0)
    return losses.sum(), (targets != 0).sum()


class Global(torch.optim.Optimizer):
    """An optimizer that nobody knows, with a norm over the whole model."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.sqrt(sum((p.grad * p.grad).sum() for p in held))  # type: ignore[arg-type]
        for p in held:
            state = self.state[p]
            state["mean"] = 0.9 * state.get("mean", torch.zeros_like(p)) + p.grad / norm
            p.add_(state["mean"], alpha=-0.1)


def muon_and_adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    matrices = [p for p in trainable(model) if p.dim() == 2]
    rest = [p for p in trainable(model) if p.dim() != 2]
    return [torch.optim.Muon(matrices, lr=0.01), torch.optim.AdamW(rest, lr=0.01)]


def groups(model: nn.Module) -> torch.optim.Optimizer:
    held = trainable(model)
    parts = [{"params": held[:2], "lr": 0.1}, {"params": held[2:]}]
    return torch.optim.SGD(parts, lr=0.01, nesterov=True, momentum=0.9, weight_decay=0.01)


def warmup(optimizer: Any, steps: int) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)


def halved(optimizer: Any, steps: int) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)


def wide() -> nn.Module:
    """BatchNorm, dropout, and a parameter of three blocks with the larger part of the gradient."""
    return nn.Sequential(
        nn.Linear(jobs.FEATURES, 600), nn.BatchNorm1d(600), nn.ReLU(), nn.Dropout(0.2), nn.Linear(600, jobs.CLASSES)
    )


class Noisy:
    """Samples that are other ones each time they are read."""

    def __len__(self) -> int:
        return jobs.SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randn(jobs.FEATURES), index % jobs.CLASSES


def noisy(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    inputs = torch.stack([inputs for inputs, _ in samples])
    return inputs + torch.randn_like(inputs), torch.tensor([target for _, target in samples])


KINDS: dict[str, Job] = {
    "wild": jobs.make(jobs.Wild, clip_norm=0.5, evaluation=jobs.dataset, metrics={"accuracy": jobs.accuracy}),
    "odd": jobs.make(jobs.Wild, batch_size=26, microbatches=7),
    "tokens": jobs.make(loss=token_loss),
    "attention": jobs.make(jobs.Attention, optimizer=lambda m: torch.optim.NAdam(trainable(m), lr=0.01)),
    "groups": jobs.make(jobs.Wild, optimizer=groups, schedule=warmup),
    "muon": jobs.make(jobs.Wild, optimizer=muon_and_adamw),
    "adafactor": jobs.make(optimizer=lambda m: torch.optim.Adafactor(trainable(m), lr=0.01)),
    "global": jobs.make(optimizer=lambda m: Global(trainable(m))),
    "bfloat16": jobs.make(precision="bfloat16"),
}


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "muon": lambda p: torch.optim.Muon([q for q in p if q.dim() == 2], lr=0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "global": Global,
}


@pytest.fixture(autouse=True)
def needs_what_this_torch_has(request: pytest.FixtureRequest) -> None:
    if "[muon" in request.node.name and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with PyTorch 2.9")


@pytest.mark.few("wild", "muon", "global")
@pytest.mark.parametrize("kind", KINDS)
def test_one_hash(kind: str) -> None:
    results = {workers: result(KINDS[kind], workers) for workers in (0, 2, 3)}
    assert len({digest for digest, _ in results.values()}) == 1
    assert results[0][1] == results[2][1] == results[3][1]
    assert all(torch.isfinite(torch.tensor(record["loss"])) for record in results[0][1] if "loss" in record)


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [*KINDS, *(f"{name} alone" for name in OPTIMIZERS)])
def test_replicas_have_the_bits_of_the_one_model(kind: str, workers: int) -> None:
    if kind in KINDS:
        job = KINDS[kind]
    else:
        make = OPTIMIZERS[kind.removesuffix(" alone")]
        job = jobs.make(optimizer=lambda m: make(list(m.parameters())), steps=4)
    assert result(job, workers, device="cpu") == result(job, 0)


def test_tf32_is_float32_on_cpus() -> None:
    assert result(jobs.make(precision="tf32"), 0) == result(jobs.make(), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_the_plain_loops(kind: str) -> None:
    hold(KINDS[kind], Loop, TOLERANCE)


@pytest.mark.few("sgd", "nesterov", "dampened", "adam", "adamw", "rmsprop", "nadam", "radam", "adadelta", "global")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_agree_with_plain_pytorch(name: str) -> None:
    make = OPTIMIZERS[name]
    hold(jobs.make(optimizer=lambda m: make(list(m.parameters())), steps=10), Loop, TOLERANCE)


def test_two_workers_have_the_plain_loops_values() -> None:
    """With a clipped parameter of three blocks, of which one slot has two: the norm may not follow the slots."""
    job = jobs.make(
        wide, clip_norm=0.5, schedule=halved, data=Noisy, collate=noisy, epochs=2, steps=None, evaluation=jobs.dataset
    )
    hold(job, Loop, TOLERANCE, workers=2)


class Nested(nn.Module):
    """Its shared layer's gradient comes in two parts: one from the backward pass inside the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = (
            nn.Linear(jobs.FEATURES, 33),
            nn.Linear(33, 33),
            nn.Linear(33, jobs.CLASSES),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = checkpoint(self.shared, self.first(inputs), use_reentrant=True)
        out: Tensor = self.last(self.shared(hidden))
        return out


@pytest.mark.few("Nested")
@pytest.mark.parametrize("model", [Nested, jobs.Wild])
def test_gradients_are_added_at_once_only_where_that_gives_the_same_bits(
    model: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.make(model, microbatches=8, batch_size=40, steps=5)
    with monkeypatch.context() as patch:
        patch.setattr(Adapter, "can_add", False)
        later = result(job, 0)
    for workers in (0, 1, 2, 3):
        assert result(job, workers) == later
