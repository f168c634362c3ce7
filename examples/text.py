"""Text classification: a convolutional network over words (Kim 2014), trained from nothing on SST-2's sentences.

    unisono train examples/text.py
    unisono predict examples/text.py RUN_DIR "a gorgeous , witty film" --at best

data=FOLDER takes any train, dev and test .tsv, .csv or .jsonl with a text and a label (see corpora/tables.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from corpora.files import folder
from corpora.tables import Vocabulary, tables
from torch import Tensor, nn

from unisono import Job, UsageError


class Cnn(nn.Module):
    """Vectors of words, filters over `sizes` of them, the largest response of each, a classifier."""

    def __init__(
        self, vocabulary: int, classes: int, width: int, filters: int, sizes: Sequence[int], dropout: float
    ) -> None:  # fmt: skip
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=0)
        nn.init.normal_(self.words.weight, std=0.1)
        self.filters = nn.ModuleList(nn.Conv1d(width, filters, size, padding=size - 1) for size in sizes)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(filters * len(sizes), classes)

    def forward(self, numbers: Tensor) -> Tensor:
        """(batch, words) → (batch, classes)."""
        vectors = self.dropout(self.words(numbers)).transpose(1, 2)
        responses = [F.relu(convolve(vectors)).amax(2) for convolve in self.filters]
        return self.output(self.dropout(torch.cat(responses, 1)))


def padded(samples: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Texts as numbers, filled up to the longest, and their classes."""
    numbers = nn.utils.rnn.pad_sequence([numbers for numbers, _ in samples], batch_first=True)
    return numbers, torch.tensor([target for _, target in samples])


def accuracy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Right answers and answers."""
    return (outputs.argmax(1) == targets).sum(), len(targets)


def answer(numbers: Callable[[str], Tensor], labels: Sequence[str], model: nn.Module, text: str) -> str:
    """A text's label, and how sure the model is of it."""
    if not text.strip():
        raise UsageError("a text to classify must have words; received an empty one.")
    chances = model(numbers(text.strip())[None]).softmax(1)[0]
    return f"{labels[int(chances.argmax())]}  {float(chances.max()):.3f}"


def job(
    data: str = "", epochs: int = 8, batch_size: int = 64, lr: float = 1e-3, width: int = 200, filters: int = 100,
    dropout: float = 0.5, least: int = 2,
) -> Job:  # fmt: skip
    """The classifier; `least`: how often a word must occur to have a vector."""
    found = tables(folder("sst2", data))
    labels = sorted({row.label for row in found["train"]})
    vocabulary = Vocabulary([row.text.split() for row in found["train"]], least)

    def numbers(text: str) -> Tensor:
        return torch.tensor(vocabulary(text.split()))

    samples = {name: [(numbers(row.text), labels.index(row.label)) for row in table] for name, table in found.items()}
    return Job(
        model=partial(Cnn, len(vocabulary), len(labels), width, filters, (1, 2, 3), dropout),
        loss=F.cross_entropy,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=lr),
        schedule=lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, lr, total_steps=steps, cycle_momentum=False
        ),
        data=samples["train"],
        collate=padded,
        evaluation={name: samples[name] for name in ("dev", "test")},
        metrics={"accuracy": accuracy},
        best=("max", "dev/accuracy"),
        batch_size=batch_size,
        microbatches=8,
        epochs=epochs,
        infer=partial(answer, numbers, labels),
    )
