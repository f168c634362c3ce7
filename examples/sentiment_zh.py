"""Chinese sentiment: a convolutional network over characters on ChnSentiCorp's reviews, judged by accuracy and F1.

    unisono train examples/sentiment_zh.py
    unisono predict examples/sentiment_zh.py RUN_DIR 房间很干净，服务也好 --at best

The usual split leaks: many test texts are in the training file too. "test" is the usual one, to compare with what is
published; "test_clean" holds only texts that training has not seen, each once: that is the number to believe.
data=FOLDER takes any train, dev and test .tsv with a text and a label.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from corpora.files import folder
from corpora.tables import Row, Vocabulary, tables
from text import Cnn, accuracy, answer, padded
from torch import Tensor
from torchmetrics.classification import MulticlassF1Score

from unisono import Job


def unseen(known: list[Row], table: list[Row]) -> list[Row]:
    """Rows whose text is not among the known ones, each once."""
    texts = {row.text for row in known}
    return list({row.text: row for row in table if row.text not in texts}.values())


def job(
    data: str = "", epochs: int = 8, batch_size: int = 64, lr: float = 1e-3, width: int = 128, filters: int = 128,
    dropout: float = 0.5, least: int = 2, most: int = 400,
) -> Job:  # fmt: skip
    """The classifier; `least`: how often a character must occur to have a vector; `most`: characters read of a text."""
    found = tables(folder("chnsenticorp", data))
    found |= {f"{name}_clean": unseen(found["train"], found[name]) for name in ("dev", "test")}
    labels = sorted({row.label for row in found["train"]})
    vocabulary = Vocabulary([row.text[:most] for row in found["train"]], least)

    def numbers(text: str) -> Tensor:
        return torch.tensor(vocabulary(text[:most]))

    samples = {name: [(numbers(row.text), labels.index(row.label)) for row in table] for name, table in found.items()}
    return Job(
        model=partial(Cnn, len(vocabulary), len(labels), width, filters, (2, 3, 4, 5), dropout),
        loss=F.cross_entropy,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=lr),
        schedule=lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, lr, total_steps=steps, cycle_momentum=False
        ),
        data=samples["train"],
        collate=padded,
        evaluation={name: samples[name] for name in ("dev_clean", "test", "test_clean")},
        metrics={"accuracy": accuracy, "f1": MulticlassF1Score(len(labels), average="macro")},
        best=("max", "dev_clean/accuracy"),
        batch_size=batch_size,
        microbatches=8,
        epochs=epochs,
        infer=partial(answer, numbers, labels),
    )
