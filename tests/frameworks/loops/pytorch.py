"""PyTorch's piece of the plain loop: the model and its optimizers as every script uses them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from plain_loop import Array, Part
from unisono import Job

TOLERANCE = 0.0
"""The operations are the same, one by one: so are the bits."""

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)
"""Classes whose fused kernel is used where the job leaves the choice open."""


class Loop:
    """See `plain_loop.Model`."""

    def __init__(self, job: Job, steps: int) -> None:
        self.job = job
        torch.set_num_threads(1)  # as many as a worker has
        self.seed(job.seed)
        self.model = job.model()
        built = job.optimizer(self.model)
        self.optimizers = built if isinstance(built, list) else [built]
        for optimizer in self.optimizers:
            optimizer._opt_called = True  # no warning: the first schedule is made before the first step
            if hasattr(optimizer, "train"):
                optimizer.train()
            for group in optimizer.param_groups:
                if type(optimizer) in FUSED and group["fused"] is None and group["foreach"] is None:
                    group["fused"] = True
        self.schedules = [job.schedule(optimizer, steps) for optimizer in self.optimizers] if job.schedule else []

    def seed(self, number: int) -> None:
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)

    def collate(self, samples: Sequence[Any]) -> Any:
        return tuple(default_collate(column) for column in map(list, zip(*samples, strict=True)))

    @property
    def buffers(self) -> list[Array]:
        return [buffer.numpy().copy() for buffer in self.model.buffers()]

    @buffers.setter
    def buffers(self, values: Sequence[Array]) -> None:
        for buffer, value in zip(self.model.buffers(), values, strict=True):
            buffer.copy_(torch.from_numpy(np.asarray(value)))

    def _measured(self, outputs: Any, targets: Any, samples: int) -> tuple[torch.Tensor, Part]:
        loss = self.job.loss(outputs, targets)
        total, weight = loss if isinstance(loss, tuple) else (loss * samples, samples)
        with torch.no_grad():
            pairs = [metric(outputs, targets) for metric in self.job.metrics.values()]
        return total, Part(total.item(), float(weight), [(float(a), float(b)) for a, b in pairs])

    def _autocast(self) -> Any:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.job.precision == "bfloat16")

    def gradient(self, batch: Any, samples: int) -> Part:
        inputs, targets = batch
        parameters = list(self.model.parameters())
        for parameter in parameters:
            parameter.grad = None
        self.model.train()
        with self._autocast():
            total, part = self._measured(self.model(inputs), targets, samples)
        total.backward()
        part.gradients = [None if p.grad is None else p.grad.numpy().copy() for p in parameters]
        part.buffers = self.buffers
        return part

    def evaluate(self, batch: Any, samples: int) -> Part:
        inputs, targets = batch
        self.model.eval()
        with torch.no_grad(), self._autocast(), self._averaged():
            return self._measured(self.model(inputs), targets, samples)[1]

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """An optimizer that evaluates other parameters than it trains puts them in place; the trained ones come back
        as they were."""
        trained = [parameter.detach().clone() for parameter in self.model.parameters()]
        averaging = [optimizer for optimizer in self.optimizers if hasattr(optimizer, "eval")]
        for optimizer in averaging:
            optimizer.eval()
        yield
        for optimizer in averaging:
            optimizer.train()
        for parameter, value in zip(self.model.parameters(), trained, strict=True):
            parameter.data.copy_(value)

    @property
    def rate(self) -> float:
        return float(self.optimizers[0].param_groups[0]["lr"])

    def update(self, gradients: Sequence[Array | None]) -> None:
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = None if gradient is None else torch.from_numpy(gradient)
        for stepped in (*self.optimizers, *self.schedules):
            stepped.step()

    def saved(self) -> Mapping[str, Array]:
        with self._averaged():
            return {name: tensor.numpy().copy() for name, tensor in self.model.state_dict().items()}

    def state(self) -> Mapping[str, Array]:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return {
            f"{names[parameter]}/{name}": value.numpy()
            for optimizer in self.optimizers
            for parameter, held in getattr(optimizer, "state", {}).items()
            for name, value in held.items()
            if isinstance(value, torch.Tensor) and value.dim()
        }
