"""What one batch at once shows beside its microbatches, and the advice that fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import jobs
from unisono.commands.verify.report import beside_the_framework
from unisono.commands.verify.whole_batch import compared


def contrastive(outputs: Tensor, targets: Tensor) -> Tensor:
    """Each sample's neighbour is to be found among the batch."""
    vectors = F.normalize(outputs, dim=1)
    return F.cross_entropy(vectors @ vectors.T / 0.1, torch.arange(len(vectors)).roll(1))


def contrastive_pair(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    return contrastive(outputs, targets) * len(targets), len(targets)


def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, weight=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))


class Normalised(nn.Sequential):
    """With the statistics of a microbatch; these are kept for evaluation, or not."""

    def __init__(self, keeps: bool = True) -> None:
        super().__init__(
            nn.Linear(20, 16), nn.BatchNorm1d(16, track_running_stats=keeps), nn.Linear(16, jobs.CLASSES)
        )  # fmt: skip


class Texts(Dataset[tuple[Tensor, int]]):
    """Texts of three to nine words."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(1, 50, (3 + index % 7,), generator=generator), index % jobs.CLASSES


class Words(nn.Module):
    """The mean over words, and over what fills the text up."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.output = nn.Embedding(50, 8), nn.Linear(8, jobs.CLASSES)

    def forward(self, numbers: Tensor) -> Tensor:
        found: Tensor = self.output(self.words(numbers).mean(1))
        return found


def padded(samples: Any) -> tuple[Tensor, Tensor]:
    words = nn.utils.rnn.pad_sequence([words for words, _ in samples], batch_first=True)
    return words, torch.tensor([target for _, target in samples])


def masked(samples: Any) -> tuple[Tensor, Tensor]:
    """All texts have one length."""
    words = torch.zeros(len(samples), 9, dtype=torch.int64)
    for row, (found, _) in zip(words, samples, strict=True):
        row[: len(found)] = found
    return words, torch.tensor([target for _, target in samples])


def noisy(samples: Any) -> tuple[Tensor, Tensor]:
    inputs = torch.stack([inputs for inputs, _ in samples])
    return inputs + torch.randn(inputs.shape), torch.stack([target for _, target in samples])


class Noise(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randn(20), index % jobs.CLASSES


def ignoring(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, ignore_index=0)


TEXTS = {"model": Words, "data": Texts}
FOUND = {
    "a mean": ({}, "mean", "The plain framework's gradient of one batch at once is the same to "),
    "a pair": ({"loss": lambda o, t: (F.cross_entropy(o, t, reduction="sum"), len(t))}, "mean", "is the same to "),
    "augmented": ({"data": Noise}, "mean", "is the same to "),
    "dropout": ({"model": jobs.Wild}, "mean", "gradients draw at random (dropout) and are not compared."),
    "a sum": ({"loss": lambda o, t: F.cross_entropy(o, t, reduction="sum")}, "sum", "Use the mean (reduction='mean')"),
    "ignored": ({"loss": ignoring}, "weighted", "Return (total, weight)"),
    "weights": ({"loss": weighted}, "weighted", "Return (total, weight)"),
    "contrastive": ({"loss": contrastive}, "coupled", "one microbatch, 4 samples here and not 32, in evaluation too"),
    "contrastive pair": ({"loss": contrastive_pair}, "coupled", "samples are coupled"),
    "a layer": ({"model": lambda: Normalised(keeps=False)}, "coupled", "samples are coupled"),
    "batch norm": ({"model": Normalised}, "statistics", "by its own 4 samples' statistics (1.running_mean, 1."),
    "padding": ({**TEXTS, "collate": padded}, "padding", "how far a batch is padded, in a plain loop as well."),
    "one length": ({**TEXTS, "collate": masked}, "mean", "is the same to "),
    "padding, ignored": ({**TEXTS, "collate": padded, "loss": ignoring}, "weighted", "Return (total, weight)"),
    "noise": ({"collate": noisy}, "random", "was not compared: collate, or the model in evaluation, draws"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_differs_gets_the_advice_that_fits(name: str) -> None:
    changes, finding, text = FOUND[name]
    batch = compared(jobs.make(**changes))
    assert batch is not None
    assert batch.finding == finding
    (said,) = beside_the_framework(batch)
    assert text in said


def classes_seen(outputs: Tensor, targets: Tensor) -> tuple[int, int]:
    return len(targets.unique()), 1


def test_a_metric_that_sees_a_microbatch_is_named() -> None:
    batch = compared(jobs.make(metrics={"classes": classes_seen, "accuracy": jobs.accuracy}))
    assert batch is not None
    assert batch.metrics == ("classes",)
    assert "metric 'classes' sees one microbatch" in list(beside_the_framework(batch))[-1]


def test_one_microbatch_is_the_whole_batch() -> None:
    assert compared(jobs.make(microbatches=1)) is None
