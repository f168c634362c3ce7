"""GPT-2 small in plain torch: a job for Unisono, and the loop that one writes without it.

unisono train benchmarks/peers/gpt2.py told=FILE
python benchmarks/peers/gpt2.py FILE STEPS
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

WIDTH, HEADS, LAYERS, CONTEXT, VOCABULARY = 768, 12, 12, 1024, 50257
BATCH, TOKENS = 4, 32
"""Few tokens: a step is short beside what comes before and after all of them."""


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm and beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, WIDTH) → the same."""
        batch, tokens, _ = x.shape
        heads = self.attend(self.before(x)).view(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.join(mixed.transpose(1, 2).reshape(batch, tokens, WIDTH))
        found: Tensor = x + self.narrow(F.gelu(self.widen(self.after(x)), approximate="tanh"))
        return found


class GPT2(nn.Module):
    """124 M parameters; the embedding gives the logits too."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.last = nn.Sequential(*(Block() for _ in range(LAYERS))), nn.LayerNorm(WIDTH)

    def forward(self, words: Tensor) -> Tensor:
        """Word numbers (batch, tokens) → logits (batch, tokens, VOCABULARY)."""
        x = self.words(words) + self.places(torch.arange(words.shape[1]))
        return F.linear(self.last(self.blocks(x)), self.words.weight)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over all places."""
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """The same for both; where the choice is left open Unisono takes the fused kernel."""
    return torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)


def data() -> TensorDataset:
    """64 seeded texts."""
    words = torch.randint(0, VOCABULARY, (64, TOKENS + 1), generator=torch.Generator().manual_seed(0))
    return TensorDataset(words[:, :-1], words[:, 1:])


def tell(file: str, record: dict[str, Any]) -> None:
    """Note when a step was over."""
    if "loss" in record:
        with Path(file).open("a") as told:
            told.write(f"{time.monotonic()}\n")


def job(told: str = "/dev/null", steps: int = 3) -> Any:
    """The job for Unisono."""
    from unisono import Job  # not for the plain loop

    return Job(
        model=GPT2, loss=loss, optimizer=optimizer, data=data, batch_size=BATCH, microbatches=2, steps=steps,
        observers=[partial(tell, told)],
    )  # fmt: skip


def plain(told: str, steps: int) -> None:
    """The loop on two threads, which leaves nothing on disk."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model, texts = GPT2(), data()
    stepper = optimizer(model)
    for step in range(steps):
        inputs, targets = texts[step * BATCH : (step + 1) * BATCH]
        stepper.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        stepper.step()
        tell(told, {"loss": value.item()})


if __name__ == "__main__":
    plain(sys.argv[1], int(sys.argv[2]))
