"""PyTorch for the contract suite: the same few jobs that every framework's kit makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frameworks.kits.samples import CLASSES, FEATURES, Pairs, arrays
from unisono import Job


def mlp() -> nn.Module:
    """20-33-5."""
    return nn.Sequential(nn.Linear(FEATURES, 33), nn.ReLU(), nn.Linear(33, CLASSES))


def cnn() -> nn.Module:
    """A 3 × 3 convolution with 8 channels over 4 × 5 pixels, then a dense layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 5)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(160, CLASSES)
    )


def wild() -> nn.Module:
    """Batch normalization and dropout, and enough parameters for several blocks."""
    return nn.Sequential(
        nn.Linear(FEATURES, 500), nn.BatchNorm1d(500), nn.ReLU(), nn.Dropout(0.2), nn.Linear(500, CLASSES)
    )


MODELS: dict[str, Callable[[], Any]] = {"mlp": mlp, "cnn": cnn, "wild": wild}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


class Unknown(torch.optim.Adam):
    """A class that Unisono does not know."""


def unknown(model: nn.Module) -> torch.optim.Optimizer:
    return Unknown(model.parameters(), lr=0.01)


OPTIMIZERS: dict[str, Any] = {"sgd": sgd, "adam": adam, "unknown": unknown}
"""`Job.optimizer` for SGD (0.05, momentum 0.9), Adam (0.01), and one that only a whole-model update serves."""


def warmup(optimizer: Any, steps: int) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / steps)


SCHEDULED: dict[str, Any] = {"optimizer": adam, "schedule": warmup}
"""Changes of a job that make its learning rate rise from step to step."""


def weighted_loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(Σ loss, number) of the samples whose class is not 0."""
    losses = F.cross_entropy(outputs, targets, reduction="none", ignore_index=0)
    return losses.sum(), (targets != 0).sum()


def accuracy(outputs: Tensor, targets: Tensor) -> tuple[Any, int]:
    """(right ones, all of them)."""
    return (outputs.argmax(1) == targets).sum(), len(targets)


def first_class(model: nn.Module, inputs: Tensor) -> Tensor:
    """`Job.predict`: class 0 for every sample."""
    outputs = torch.zeros(len(inputs), CLASSES)
    outputs[:, 0] = 1
    return outputs


def make(model: str = "mlp", **changes: Any) -> Job:
    """A job of six steps over 100 samples in batches of 32: the fourth batch is short and leaves microbatches empty."""
    fields: dict[str, Any] = {
        "model": MODELS[model], "loss": F.cross_entropy, "optimizer": sgd, "data": Pairs,
        "batch_size": 32, "microbatches": 8, "steps": 6,
    }  # fmt: skip
    return Job(**{**fields, **changes})


def plain(model: str, optimizer: str, steps: int) -> dict[str, Any]:
    """Full-batch training with an ordinary loop and no Unisono: the parameters by their saved names."""
    torch.manual_seed(0)
    trained = MODELS[model]()
    updates = OPTIMIZERS[optimizer](trained)
    inputs, targets = (torch.from_numpy(array) for array in arrays())
    for _ in range(steps):
        updates.zero_grad()
        F.cross_entropy(trained(inputs), targets).backward()
        updates.step()
    return {name: tensor.numpy() for name, tensor in trained.state_dict().items()}


def outputs_of(model: nn.Module, inputs: Any) -> Any:
    """What a restored model answers, as an array."""
    model.eval()
    with torch.no_grad():
        return model(torch.from_numpy(np.asarray(inputs))).numpy()
