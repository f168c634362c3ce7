"""The cases that a model cut into stages is measured with: models, seeded data, the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

CLASSES, WORDS = 10, 1000
LAYERS, WIDTH, TOKENS = 12, 512, 32
DEPTH, NARROW = 64, 256
BATCHES = 16


class Mean(nn.Module):
    """Mean over the tokens: (batch, tokens, width) → (batch, width)."""

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        return hidden.mean(1)


def transformer() -> nn.Sequential:
    """12 encoder layers of width 512, with 8 heads, over 32 tokens."""
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(WIDTH, 8, 4 * WIDTH, dropout=0.0, batch_first=True) for _ in range(LAYERS)]
    return nn.Sequential(nn.Embedding(WORDS, WIDTH), *layers, Mean(), nn.Linear(WIDTH, CLASSES))


def mlp() -> nn.Sequential:
    """64 layers of 256: deep and narrow. He's values to begin with, for with PyTorch's own gradients vanish in so many
    layers, and arithmetic with denormal numbers is what would be measured."""
    torch.manual_seed(0)
    layers = [module for _ in range(DEPTH) for module in (nn.Linear(NARROW, NARROW), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(*layers, nn.Linear(NARROW, CLASSES))


@dataclass(frozen=True)
class Case:
    """A model and how its batches are cut.

    Attributes:
        name: how tables name it.
        model: makes it, with the same parameters each time.
        microbatches: of a global batch.
        rows: samples of a microbatch.
        cut: the module before which it is cut into two equal halves.
    """

    name: str
    model: Callable[[], nn.Sequential]
    microbatches: int
    rows: int
    cut: int

    @property
    def batch_size(self) -> int:
        """Samples of a global batch."""
        return self.microbatches * self.rows

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Seeded samples and their classes, enough for 16 batches."""
        chance = torch.Generator().manual_seed(0)
        samples = BATCHES * self.batch_size
        targets = torch.randint(0, CLASSES, (samples,), generator=chance)
        if self.model is transformer:
            return torch.randint(0, WORDS, (samples, TOKENS), generator=chance), targets
        return torch.randn(samples, NARROW, generator=chance), targets

    def data(self) -> TensorDataset:
        """The same for Unisono."""
        return TensorDataset(*self.tensors())


CASES = {
    case.name: case
    for case in (
        Case("transformer-8", transformer, microbatches=8, rows=2, cut=1 + LAYERS // 2),
        Case("transformer-4", transformer, microbatches=4, rows=4, cut=1 + LAYERS // 2),
        Case("mlp-8", mlp, microbatches=8, rows=16, cut=DEPTH),
    )
}


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """The same for everybody."""
    return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
