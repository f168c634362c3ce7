"""Replicas of PyTorch models give the bits of the one model in the host's memory."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import faults
import jobs
from unisono import Job
from unisono.gradients.tree import fold
from unisono.memory.segment import Segment
from unisono.runtime.preparation.prepare import prepare
from unisono.runtime.preparation.prepared import Prepared
from unisono.runtime.rules.request import Request
from unisono.runtime.state.host_state import HostState
from unisono.runtime.supervisor.outcome import raise_failure


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01, foreach=False)


def adafactor(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(model.parameters(), lr=0.01)


def two(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for matrices, Adagrad, whose state begins with the optimizer, for the rest."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.dim() == 2]
    return [torch.optim.Muon(matrices, lr=0.01), torch.optim.Adagrad([p for p in parameters if p.dim() != 2], lr=0.01)]


class Whole(torch.optim.Optimizer):
    """Its steps are as long as the whole gradient says, of which it keeps the sum; no class that is listed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__([p for p in model.parameters() if p.requires_grad], {"lr": 0.05, "seen": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        group = self.param_groups[0]
        found = [p for p in group["params"] if p.grad is not None]
        group["seen"] += float(sum(p.grad.abs().sum() for p in found))
        for p in found:
            self.state[p]["last"] = p.grad
            p.add_(p.grad + 0.1 * torch.rand_like(p), alpha=-group["lr"] / (1 + group["seen"]))


class Free(Whole):
    """Trains its parameters as one set and evaluates them as another."""

    def train(self) -> None:
        self._shift(1.0)

    def eval(self) -> None:
        self._shift(-1.0)

    @torch.no_grad()
    def _shift(self, sign: float) -> None:
        for group in self.param_groups:
            if group.get("training", 1.0) != sign:
                group["training"] = sign
                for p in group["params"]:
                    p.mul_(1.25 if sign > 0 else 0.8)


def spoilt(outputs: Tensor, targets: Tensor) -> Tensor:
    """A finite loss whose gradient is not, of one microbatch."""
    loss = F.cross_entropy(outputs, targets)
    return loss + 0.0 * torch.where(targets[0] == 3, outputs[0, 0] * 0.0, 1.0).abs().sqrt()


EVALUATED = {"evaluation": partial(jobs.dataset, 40, 2), "evaluate_every": 2, "metrics": {"accuracy": jobs.accuracy}}
JOBS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum": {"optimizer": momentum, "clip_norm": 0.3},
    "adam": {"optimizer": adam, "schedule": jobs.warm},
    "adamw": {"optimizer": jobs.adamw, "clip_norm": 0.5, "model": jobs.Wild, "batch_size": 30, **EVALUATED},
    "adafactor": {"optimizer": adafactor, "model": jobs.Wild},
    "muon and adagrad": {"optimizer": two, "model": jobs.Wild},
    "whole": {"optimizer": Whole, "clip_norm": 1.0, "model": jobs.Wild},
    "averaged": {"optimizer": Free, **EVALUATED},
    "bfloat16": {"precision": "bfloat16", "optimizer": jobs.adamw, "model": jobs.Wild},
}


def told(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    keep = ("step", "loss", "samples", "gradient_norm", "learning_rate")
    return [{k: v for k, v in record.items() if k in keep or k.startswith("evaluation")} for record in records]


@pytest.mark.few("adamw-3", "whole-2")
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("name", JOBS)
def test_replicas_give_the_bits_of_the_one_model(name: str, workers: int) -> None:
    job = jobs.make(**JOBS[name])
    expected, records = faults.undisturbed(job)
    outcome, found, _ = faults.run(job, workers, device="cpu")
    raise_failure(outcome)
    assert faults.hash_of(outcome) == expected
    assert told(found) == told(records)


def bound(job: Job) -> tuple[Prepared, HostState]:
    """A job made ready in this process, its model in the memory of a host."""
    prepared = prepare(job, Request(1, 1, faults.CORES, device="cpu"))
    state = HostState(prepared.layout, Segment.create(prepared.layout.segment))
    prepared.initialise(state)
    prepared.bind(state)
    return prepared, state


class Counted(Whole):
    """Counts the steps of this process."""

    steps = 0

    def step(self, closure: Any = None) -> None:
        Counted.steps += 1
        super().step(closure)


def test_a_replica_begins_without_a_step_in_the_memory_that_others_read() -> None:
    """There lies a copy of the state, which may be the run's result by the time that a newcomer begins."""
    prepared, _ = bound(jobs.make(optimizer=Counted))
    tried = Counted.steps
    prepared.adapter.replica("cpu")
    assert Counted.steps == tried == 1


def test_a_gradient_that_is_not_finite_names_its_parameter() -> None:
    job = jobs.make(loss=spoilt)
    expected, _, _ = faults.run(job)
    outcome, _, _ = faults.run(job, 2, device="cpu")
    assert expected.failure
    assert outcome.failure
    assert "a gradient must be finite" in expected.failure.message
    assert outcome.failure.message.partition(": ")[2] == expected.failure.message.partition(": ")[2]


def test_a_device_holds_parameters_their_state_and_partial_sums_and_nothing_else_of_their_size() -> None:
    def large() -> list[torch.UntypedStorage]:
        tensors = [each for each in gc.get_objects() if type(each) is Tensor and each.layout is torch.strided]
        return [s for s in (each.untyped_storage() for each in tensors) if s.nbytes() >= 4 * 20 * 50_000]

    prepared, state = bound(jobs.make(lambda: nn.Linear(20, 50_000), microbatches=2, optimizer=momentum))
    before = large()
    replica, reader, round_ = prepared.adapter.replica("cpu"), prepared.reader(), prepared.program.at(0)
    replica.load(state, 0)
    replica.begin(0, 2)
    steps = fold(0, 2, 2).steps
    for step in steps:
        replica.gradient(reader.read(round_, step.microbatch), prepared.program.samples(round_, step.microbatch), step)
    weight = sum(row.weight for row in replica.rows())
    replica.update(weight, int(weight), replica.used())
    held = {storage.data_ptr() for storage in large()} - {storage.data_ptr() for storage in before}
    assert len(held) == len(("values", "momentum")) + len({step.buffer for step in steps})
