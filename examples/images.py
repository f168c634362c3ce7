"""Image recognition: a small residual network (He et al. 2015) with augmentation and a one-cycle learning rate.

unisono train examples/images.py                                     Fashion-MNIST, downloaded once
unisono train examples/images.py data=FOLDER                         MNIST's or CIFAR-10's files, or pictures:
                                                                     FOLDER/{train,dev,test}/CLASS/*.png or *.jpg
unisono predict examples/images.py RUN_DIR PICTURE.png --at best
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from corpora.files import folder
from corpora.pictures import FASHION_CLASSES, Augmented, picture, pictures
from torch import Tensor, nn

from unisono import Job


class Block(nn.Module):
    """Two normed convolutions beside a shortcut; the first may halve the picture."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut = shortcut if stride > 1 or before != after else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.body(images) + self.shortcut(images))


class ResNet(nn.Sequential):
    """Pixels normed, a convolution, three blocks of growing width, the mean over the picture, a classifier."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels, affine=False),
            nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            Block(width, width, 2), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes),
        )  # fmt: skip


def collate(samples: list[tuple[np.ndarray, int]]) -> tuple[Tensor, Tensor]:
    """Pictures (batch, channels, height, width) from 0 to 1 and their classes."""
    images = torch.from_numpy(np.stack([image for image, _ in samples])).permute(0, 3, 1, 2)
    return images.contiguous().float() / 255, torch.tensor([label for _, label in samples])


def accuracy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Right answers and answers."""
    return (outputs.argmax(1) == targets).sum(), len(targets)


def recognized(shape: tuple[int, int, int], names: Sequence[str], model: nn.Module, path: str) -> str:
    """What a picture file shows, and how sure the model is of it."""
    images, _ = collate([(picture(Path(path), shape), 0)])
    chances = model(images).softmax(1)[0]
    return f"{names[int(chances.argmax())]}  {float(chances.max()):.3f}"


def job(
    data: str = "", epochs: int = 15, batch_size: int = 256, lr: float = 0.2, width: int = 32, most: int = 2,
    mirror: bool = True,
) -> Job:  # fmt: skip
    """The classifier; `most`: pixels by which a picture is moved."""
    sets, names = pictures(folder("fashion_mnist", data))
    return Job(
        model=partial(ResNet, sets["train"].shape[2], len(names), width),
        loss=F.cross_entropy,
        optimizer=lambda model: torch.optim.SGD(
            model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4
        ),
        schedule=lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, lr, total_steps=steps, cycle_momentum=False
        ),
        data=Augmented(sets["train"], most, mirror),
        collate=collate,
        evaluation={name: sets[name] for name in ("dev", "test")},
        metrics={"accuracy": accuracy},
        best=("max", "dev/accuracy"),
        batch_size=batch_size,
        microbatches=8,
        epochs=epochs,
        infer=partial(recognized, sets["train"].shape, names if data else FASHION_CLASSES),
    )
