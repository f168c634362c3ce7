"""What batch statistics of microbatches do to a ResNet's accuracy, beside those of whole batches.

python benchmarks/batch_norm.py [--seeds 7] [--epochs 10]

A small ResNet learns scikit-learn's digits, as a plain script and with `unisono.parallel(microbatches=8)`: the same
weights at the start, the same batches. Calls are computed in the script, whose bits any number of workers gives.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import unisono

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "docs"))

from fill import filled  # noqa: E402

FILE = HERE / "results" / "batch_norm.json"
PAGE = HERE.parent / "docs" / "scripts.md"
BATCHES = (32, 128)
MICROBATCHES = (0, 8)
"""0: the script without the line."""
TRAINED = 1297
"""Images of the 1797; the others are tested."""


class Block(nn.Module):
    """Two convolutions beside a short cut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.cut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Its activations."""
        return F.relu(self.body(x) + self.cut(x))


def resnet() -> nn.Sequential:
    """For images of 8 × 8 points."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def accuracy(batch: int, microbatches: int, seed: int, epochs: int) -> float:
    """The share of tested images that are told rightly."""
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    torch.manual_seed(seed)
    order, model = torch.randperm(len(images)), resnet()
    train, test = order[:TRAINED], order[TRAINED:]
    orders = [train[torch.randperm(TRAINED)] for _ in range(epochs)]
    if microbatches:
        model = unisono.parallel(model, microbatches=microbatches, workers=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for each in orders:
        for rows in each[: TRAINED // batch * batch].split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return float((model(images[test]).argmax(1) == labels[test]).float().mean())


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Mean and spread as Markdown."""
    lines = ["| batch | the plain script | 8 microbatches | samples that BatchNorm sees |", "| --- " * 4 + "|"]
    for batch, found in results.items():
        shown = [
            f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f} %" for values in found.values()
        ]
        lines.append(f"| {' | '.join([batch, *shown, str(int(batch) // MICROBATCHES[-1])])} |")
    return "\n".join(lines)


def main() -> None:
    """Train, print a table, keep the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        str(batch): {
            str(cut): [accuracy(batch, cut, seed, arguments.epochs) for seed in range(arguments.seeds)]
            for cut in MICROBATCHES
        }
        for batch in BATCHES
    }
    settings = {
        "torch": torch.__version__, "seeds": arguments.seeds, "epochs": arguments.epochs, "trained": TRAINED,
        "at": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(table(results))
    FILE.write_text(json.dumps({"results": results, "settings": settings}) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), "accuracy", table(results)))


if __name__ == "__main__":
    main()
