"""Text classification: a convolutional network over words (Kim 2014), trained from nothing on SST-2's sentences.

    unisono train examples/text.py
    unisono predict examples/text.py RUN_DIR "a gorgeous , witty film" --at best

data=FOLDER takes any train, dev and test .tsv, .csv or .jsonl with a text and a label (see corpora.py).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from corpora import Vocabulary, answer, folder, padded, tables
from torch import Tensor, nn

from unisono import Job

ADDRESS = "https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification/457ffd83de90a9d6d472d8ffc31bbffe40a8b236/data/SST2/"
FILES = {
    "train.tsv": (ADDRESS + "train.tsv", "ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920"),
    "dev.tsv": (ADDRESS + "dev.tsv", "eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359"),
    "test.tsv": (ADDRESS + "test.tsv", "831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7"),
}
SIZES = (1, 2, 3, 4)
"""Words that a filter sees."""


class Cnn(nn.Module):
    """Word vectors, filters of several sizes, the largest response of each, a classifier."""

    def __init__(self, vocabulary: int, classes: int, width: int, filters: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=0)
        self.filters = nn.ModuleList(nn.Conv1d(width, filters, size, padding=size - 1) for size in SIZES)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(filters * len(SIZES), classes)

    def forward(self, numbers: Tensor) -> Tensor:
        """(batch, words) → (batch, classes)."""
        vectors = self.dropout(self.words(numbers)).transpose(1, 2)
        responses = [F.relu(convolve(vectors)).amax(2) for convolve in self.filters]
        logits: Tensor = self.output(self.dropout(torch.cat(responses, 1)))
        return logits


def accuracy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Right answers and answers."""
    return (outputs.argmax(1) == targets).sum(), len(targets)


def job(
    data: str = "", epochs: int = 12, batch_size: int = 64, lr: float = 1e-3, width: int = 200, filters: int = 100,
    dropout: float = 0.5, least: int = 2,
) -> Job:  # fmt: skip
    """The classifier; `least`: how often a word must occur to have a vector."""
    found = tables(Path(data) if data else folder("sst2", FILES))
    labels = sorted({row.label for row in found["train"]})
    vocabulary = Vocabulary([row.text.split() for row in found["train"]], least)
    samples = {
        name: [(torch.tensor(vocabulary(row.text.split())), labels.index(row.label)) for row in table]
        for name, table in found.items()
    }
    return Job(
        model=partial(Cnn, len(vocabulary), len(labels), width, filters, dropout),
        loss=F.cross_entropy,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01),
        data=samples["train"],
        collate=padded,
        evaluation={name: samples[name] for name in ("dev", "test")},
        metrics={"accuracy": accuracy},
        best=("max", "dev/accuracy"),
        batch_size=batch_size,
        epochs=epochs,
        infer=partial(answer, vocabulary, str.split, labels),
    )
