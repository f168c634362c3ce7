"""Fine-tuning: a frozen backbone from a safetensors file, two parameter groups, F1 by torchmetrics.

    unisono train examples/digits_torch.py --out runs/backbone
    unisono train examples/finetune.py backbone=runs/backbone/parameters.safetensors

The digits network is taken up to its last layer; a new head learns to tell even digits from odd ones, and the last
convolution follows at a tenth of the head's rate.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchmetrics
from digits_torch import Net, split
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from unisono import Job, UsageError


class Parity(nn.Module):
    """The digits network with its first layers frozen and a new head."""

    def __init__(self, backbone: Path) -> None:
        super().__init__()
        digits = Net()
        digits.load_state_dict(load_file(backbone))
        self.features = nn.Sequential(*list(digits)[:-1])
        self.features.requires_grad_(False)
        self.features[3].requires_grad_(True)
        self.head = nn.Linear(32 * 16, 2)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, 8, 8) → (batch, 2)."""
        logits: Tensor = self.head(self.features(images))
        return logits


def optimizer(lr: float, model: Parity) -> torch.optim.Optimizer:
    """The head at the full rate, the last convolution at a tenth of it."""
    last = {"params": model.features[3].parameters(), "lr": lr / 10}
    return torch.optim.AdamW([{"params": model.head.parameters()}, last], lr=lr)


def parity(test: bool) -> TensorDataset:
    """The digits with targets 0 (even) and 1 (odd)."""
    images, targets = split(test).tensors
    return TensorDataset(images, targets % 2)


class F1:
    """torchmetrics' F1, fed with logits."""

    def __init__(self) -> None:
        self.score = torchmetrics.classification.BinaryF1Score()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a microbatch."""
        self.score.update(outputs.argmax(1), targets)

    def compute(self) -> Tensor:
        """The score of all that came."""
        score: Tensor = self.score.compute()
        return score

    def reset(self) -> None:
        """Begin again."""
        self.score.reset()


def job(backbone: str = "runs/backbone/parameters.safetensors", lr: float = 1e-2, epochs: int = 3) -> Job:
    """The fine-tuning job."""
    path = Path(backbone).resolve()
    if not path.is_file():
        raise UsageError(
            f"backbone= names a safetensors file; {backbone!r} does not exist. "
            "Make it with: unisono train examples/digits_torch.py --out runs/backbone"
        )
    return Job(
        model=partial(Parity, path),
        loss=F.cross_entropy,
        optimizer=partial(optimizer, lr),
        data=partial(parity, False),
        evaluation=partial(parity, True),
        batch_size=128,
        microbatches=8,
        epochs=epochs,
        metrics={"f1": F1()},
    )
