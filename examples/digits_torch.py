"""Handwritten digits: a small convolutional network on scikit-learn's bundled set (1,797 images of 8 × 8).

unisono train examples/digits_torch.py
unisono verify examples/digits_torch.py
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from unisono import Job

TEST = 360


class Net(nn.Sequential):
    """Two convolutions with BatchNorm, then a classifier with dropout."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * 16, 10),
        )  # fmt: skip


def split(test: bool) -> TensorDataset:
    """The training or the test images, drawn apart with a fixed seed."""
    bunch: Any = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    targets = torch.tensor(bunch.target)
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = shuffled[:TEST] if test else shuffled[TEST:]
    return TensorDataset(images[chosen], targets[chosen])


def accuracy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Right answers and answers."""
    return (outputs.argmax(1) == targets).sum(), len(targets)


def job(lr: float = 3e-3, epochs: int = 15) -> Job:
    """The digits job."""
    return Job(
        model=Net,
        loss=F.cross_entropy,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=lr),
        data=lambda: split(test=False),
        batch_size=128,
        microbatches=8,
        epochs=epochs,
        evaluation=lambda: split(test=True),
        metrics={"accuracy": accuracy},
    )
