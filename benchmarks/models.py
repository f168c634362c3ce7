"""The models that all contenders train, with seeded synthetic data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

CLASSES = 10


def mlp() -> nn.Module:
    """784-2048-2048-10."""
    return nn.Sequential(
        nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, CLASSES)
    )  # fmt: skip


def cnn() -> nn.Module:
    """Three small convolutions on 28 × 28."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 49, CLASSES),
    )  # fmt: skip


class Transformer(nn.Module):
    """Four layers of width 256 over 64 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 256)
        layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(256, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers (batch, 64) → logits (batch, 10)."""
        out: Tensor = self.head(self.encoder(self.embed(tokens)).mean(1))
        return out


@dataclass(frozen=True)
class Case:
    """A model at a global batch size."""

    model: Callable[[], nn.Module]
    batch_size: int
    tokens: bool

    def data(self) -> TensorDataset:
        """2,048 seeded samples."""
        generator = torch.Generator().manual_seed(0)
        targets = torch.randint(0, CLASSES, (2048,), generator=generator)
        if self.tokens:
            return TensorDataset(torch.randint(0, 1000, (2048, 64), generator=generator), targets)
        return TensorDataset(torch.randn(2048, 784, generator=generator), targets)


MODELS = {"mlp": mlp, "cnn": cnn, "transformer": Transformer}
CASES = ("mlp-32", "mlp-256", "cnn-256", "transformer-32")
"""What `run.py` compares: model and global batch size."""


def case_named(name: str) -> Case:
    """The case of a name: any model at any batch size."""
    model, _, batch_size = name.partition("-")
    return Case(MODELS[model], int(batch_size), tokens=model == "transformer")


def optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a setting, fused for every contender."""
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
