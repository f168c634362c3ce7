"""Small jobs that tests train: functions of nothing, so that every process makes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from unisono import Job
from waiting import until

SAMPLES, FEATURES, CLASSES = 100, 20, 5
FOR_EVER = 10**9
"""Steps of a run that somebody ends."""


def dataset(samples: int = SAMPLES, seed: int = 1) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, FEATURES, generator=generator)
    return TensorDataset(inputs, torch.randint(0, CLASSES, (samples,), generator=generator))


class Held(Dataset[tuple[Tensor, Tensor]]):
    """Samples for so many steps, in order; while there is a file, loaders read as far as it says and no further.

    Args:
        steps, batch_size: of the job, whose order is "sequential".
        file: holds the number of steps that may be done.
    """

    def __init__(self, steps: int, batch_size: int, file: str) -> None:
        self._samples, self._batch_size, self._file = dataset(steps * batch_size), batch_size, Path(file)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if Path("/proc/self/comm").read_text() == "unisono-loader\n":
            step = index // self._batch_size
            until(lambda: step < self._allowed(), f"step {step + 1} may be done")
        inputs, targets = self._samples[index]
        return inputs, targets

    def _allowed(self) -> float:
        try:
            return int(self._file.read_text() or 0)
        except FileNotFoundError:
            return float("inf")


class Mlp(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(FEATURES, 33), nn.ReLU(), nn.Linear(33, CLASSES))


class Wild(nn.Module):
    """BatchNorm, dropout, tied, frozen, unused and sometimes-used parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 33)
        self.norm = nn.BatchNorm1d(33)
        self.tied = nn.Linear(33, 33, bias=False)
        self.same = nn.Linear(33, 33, bias=False)
        self.same.weight = self.tied.weight
        self.frozen = nn.Linear(33, 33)
        self.frozen.requires_grad_(False)
        self.unused = nn.Linear(3, 3)
        self.sometimes = nn.Parameter(torch.ones(33))
        self.last = nn.Linear(33, CLASSES)
        self.register_buffer("mask", torch.full((3,), 0.1))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.dropout(F.relu(self.norm(self.first(inputs))), 0.2, self.training)
        hidden = self.same(F.relu(self.tied(hidden))) + self.frozen(hidden)
        if float(inputs[0, 0]) > 0:
            hidden = hidden * self.sometimes
        out: Tensor = self.last(hidden)
        return out


class Block(nn.Module):
    """A residual block with BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(33)
        self.linear = nn.Linear(33, 33)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + F.dropout(F.relu(self.linear(self.norm(hidden))), 0.2, self.training)


class Deep(nn.Module):
    """Blocks to be cut: a weight tied between three of them, a skip over all, a frozen and an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 33)
        self.blocks = nn.ModuleList(Block() for _ in range(5))
        for tied in (2, 4):
            self.blocks[tied].linear.weight = self.blocks[0].linear.weight
        self.blocks[3].linear.requires_grad_(False)
        self.unused = nn.Linear(3, 3)
        self.last = nn.Linear(33, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        first = hidden = self.first(inputs)
        for block in self.blocks:
            hidden = block(hidden)
        out: Tensor = self.last(hidden + first)
        return out


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.embed = nn.Linear(4, 16)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.last = nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.last(self.encoder(self.embed(inputs.view(-1, 5, 4))).mean(1))
        return out


class Convolution(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 4, 5)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(160, CLASSES)
        )


def accuracy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    return (outputs.argmax(1) == targets).sum(), len(targets)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)


def warm(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / steps)


def plateau(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)


def make(model: Callable[[], nn.Module] = Mlp, **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "model": model,
        "loss": F.cross_entropy,
        "optimizer": sgd,
        "data": dataset,
        "batch_size": 32,
        "microbatches": 8,
        "steps": 6,
    }
    return Job(**{**fields, **changes})
