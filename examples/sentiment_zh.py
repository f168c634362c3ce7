"""Chinese sentiment: a convolutional network over characters on ChnSentiCorp's reviews, judged by accuracy and F1.

    unisono train examples/sentiment_zh.py
    unisono predict examples/sentiment_zh.py RUN_DIR 房间很干净，服务也好 --at best

The usual split leaks: many test texts are in the training file too. "test" is the usual one, to compare with what is
published; "test_clean" holds only texts that training has not seen, each once: that is the number to believe.
data=FOLDER takes any train, dev and test .tsv with a text and a label.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from corpora import Row, Vocabulary, answer, folder, padded, tables
from torch import Tensor, nn
from torchmetrics.classification import MulticlassF1Score

from unisono import Job

ADDRESS = (
    "https://raw.githubusercontent.com/dbiir/UER-py/5743050cc41f0f21986c9f938db5ac1726052629/datasets/chnsenticorp/"
)
FILES = {
    "train.tsv": (ADDRESS + "train.tsv", "0b2653c23e5c79f539472e90cb10522f0ada4b80d3da95572d8b48fda47d5b33"),
    "dev.tsv": (ADDRESS + "dev.tsv", "d129e443eac08ce7643013dad496a8edf282be39cac1a4f2ad080818b296b331"),
    "test.tsv": (ADDRESS + "test.tsv", "34f9d71eba6096cd8689e18913d28cf9a5f3c18a6c2804cd13304a321738c4bc"),
}


SIZES = (2, 3, 4, 5)
"""Characters that a filter sees."""


class TextCnn(nn.Module):
    """Character vectors, filters of several sizes, the largest response of each, a classifier."""

    def __init__(self, vocabulary: int, classes: int, width: int, filters: int, dropout: float) -> None:
        super().__init__()
        self.characters = nn.Embedding(vocabulary, width, padding_idx=0)
        self.filters = nn.ModuleList(nn.Conv1d(width, filters, size, padding=size - 1) for size in SIZES)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(filters * len(SIZES), classes)

    def forward(self, numbers: Tensor) -> Tensor:
        """(batch, characters) → (batch, classes)."""
        vectors = self.dropout(self.characters(numbers)).transpose(1, 2)
        responses = [F.relu(convolve(vectors)).amax(2) for convolve in self.filters]
        logits: Tensor = self.output(self.dropout(torch.cat(responses, 1)))
        return logits


def unseen(known: list[Row], table: list[Row]) -> list[Row]:
    """Rows whose text is not among the known ones, each once."""
    texts = {row.text for row in known}
    fresh = {row.text: row for row in table if row.text not in texts}
    return list(fresh.values())


def accuracy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Right answers and answers."""
    return (outputs.argmax(1) == targets).sum(), len(targets)


def job(
    data: str = "", epochs: int = 8, batch_size: int = 64, lr: float = 1e-3, width: int = 128, filters: int = 128,
    dropout: float = 0.5, least: int = 2, most: int = 400,
) -> Job:  # fmt: skip
    """The classifier; `least`: how often a character must occur to have a vector; `most`: characters read of a text."""
    found = tables(Path(data) if data else folder("chnsenticorp", FILES))
    labels = sorted({row.label for row in found["train"]})
    for name in ("dev", "test"):
        found[f"{name}_clean"] = unseen(found["train"], found[name])
    vocabulary = Vocabulary([row.text[:most] for row in found["train"]], least)
    samples = {
        name: [(torch.tensor(vocabulary(row.text[:most])), labels.index(row.label)) for row in table]
        for name, table in found.items()
    }
    return Job(
        model=partial(TextCnn, len(vocabulary), len(labels), width, filters, dropout),
        loss=F.cross_entropy,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01),
        data=samples["train"],
        collate=padded,
        evaluation={name: samples[name] for name in ("dev_clean", "test", "test_clean")},
        metrics={"accuracy": accuracy, "f1": MulticlassF1Score(len(labels), average="macro")},
        best=("max", "dev_clean/accuracy"),
        batch_size=batch_size,
        epochs=epochs,
        infer=partial(answer, vocabulary, list, labels),
    )
