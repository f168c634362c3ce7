"""A language model: a small GPT on the characters of a text (after nanoGPT), with tied weights.

    unisono train examples/language.py                                4 layers, 128 wide; for one of 6 layers, 384 wide:
    unisono train examples/language.py layers=6 width=384 heads=6 context=256 batch_size=64 dropout=0.2 lr=1e-3
    unisono predict examples/language.py RUN_DIR "ROMEO:"             goes on with it

data=PATH takes any UTF-8 text; the default is "tiny Shakespeare".
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from corpora.characters import Windows, characters
from corpora.files import folder
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from unisono import Job, UsageError


class Block(nn.Module):
    """Attention to what came before, then a two-layer network, each on a normed residual stream."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, stream: Tensor) -> Tensor:
        """(batch, time, width) → the same."""
        batch, time, width = stream.shape
        parts = self.attention(self.norm_attention(stream)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*parts.unbind(0), is_causal=True, dropout_p=dropout)
        stream = stream + self.project(mixed.transpose(1, 2).reshape(batch, time, width))
        return stream + self.network(self.norm_network(stream))


class Gpt(nn.Module):
    """Characters in, logits of the next character out; the output layer shares the embedding's weights."""

    def __init__(self, vocabulary: int, context: int, layers: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for vectors in (self.tokens, self.positions):
            nn.init.normal_(vectors.weight, std=0.02)
        self.output.weight = self.tokens.weight

    def forward(self, codes: Tensor) -> Tensor:
        """(batch, time) → (batch, time, vocabulary)."""
        vectors = self.tokens(codes) + self.positions(torch.arange(codes.shape[1]))
        return self.output(self.norm(self.blocks(vectors)))


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all characters; every sample has as many, so it is the mean over samples too."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def written(alphabet: str, context: int, model: nn.Module, prompt: str, length: int = 300) -> str:
    """The prompt and what the model writes after it, drawn with a fixed seed."""
    unknown = sorted(set(prompt) - set(alphabet))
    if unknown or not prompt:
        raise UsageError(f"a prompt is made of the training text's characters; received {prompt!r} with {unknown}.")
    codes = torch.tensor([[alphabet.index(character) for character in prompt]])
    chance = torch.Generator().manual_seed(0)
    for _ in range(length):
        following = model(codes[:, -context:])[0, -1].softmax(0)
        codes = torch.cat([codes, torch.multinomial(following, 1, generator=chance)[None]], 1)
    return "".join(alphabet[int(code)] for code in codes[0])


def job(
    data: str = "", layers: int = 4, width: int = 128, heads: int = 4, context: int = 64, dropout: float = 0.0,
    batch_size: int = 32, steps: int = 3000, warmup: int = 100, lr: float = 2e-3,
) -> Job:  # fmt: skip
    """The language model."""
    path = Path(data) if data else folder("tinyshakespeare") / "input.txt"
    alphabet, numbers = characters(path, context)
    codes, cut = torch.from_numpy(numbers).long(), int(0.9 * len(numbers))
    return Job(
        model=partial(Gpt, len(alphabet), context, layers, width, heads, dropout),
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.1),
        schedule=lambda optimizer, steps: LambdaLR(optimizer, lambda at: min((at + 1) / warmup, 1 - 0.9 * at / steps)),
        clip_norm=1.0,
        data=Windows(codes[:cut], context, 1),
        evaluation=Windows(codes[cut:], context, context),
        evaluate_every=1000,
        batch_size=batch_size,
        microbatches=8,
        steps=steps,
        infer=partial(written, alphabet, context),
    )
