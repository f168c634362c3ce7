"""MXNet's piece of the plain loop: gluon under `autograd.record`, and the optimizer's own updater."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any

import mxnet
import numpy as np
from mxnet import autograd, nd

from plain_loop import Array, Part
from unisono import Job

TOLERANCE = 1e-5
"""Operations called one by one may get other bits than those of a graph."""


def number_of(value: Any) -> float:
    return float(value.asscalar() if isinstance(value, nd.NDArray) else value)


class Loop:
    """See `plain_loop.Model`."""

    def __init__(self, job: Job, steps: int) -> None:
        self.job = job
        self.seed(job.seed)
        self.model = job.model()
        self.model.initialize()
        data = job.data() if callable(job.data) else job.data
        with autograd.pause():
            self.model(nd.array(data[0][0][None]))  # shapes come from the first sample
        named = self.model._collect_params_with_prefix()
        self.trained = {name: p for name, p in named.items() if p.grad_req != "null"}
        self.statistics = {name: p for name, p in named.items() if p.grad_req == "null"}
        self.optimizer = copy.deepcopy(job.optimizer(steps) if callable(job.optimizer) else job.optimizer)
        self.updater = mxnet.optimizer.get_updater(self.optimizer)

    def seed(self, number: int) -> None:
        mxnet.random.seed(number & 0x7FFFFFFF)
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)

    def collate(self, samples: Sequence[Any]) -> Any:
        inputs, targets = (np.stack(column) for column in zip(*samples, strict=True))
        return nd.array(inputs, dtype=inputs.dtype), nd.array(targets, dtype=targets.dtype)

    @property
    def buffers(self) -> list[Array]:
        return [parameter.data().asnumpy() for parameter in self.statistics.values()]

    @buffers.setter
    def buffers(self, values: Sequence[Array]) -> None:
        for parameter, value in zip(self.statistics.values(), values, strict=True):
            parameter.set_data(nd.array(value))

    def _measured(self, outputs: Any, targets: Any, samples: int) -> tuple[Any, Any]:
        loss = self.job.loss(outputs, targets)
        return loss if isinstance(loss, tuple) else (loss.sum(), samples)

    def _part(self, total: Any, weight: Any, outputs: Any, targets: Any) -> Part:
        pairs = [metric(outputs, targets) for metric in self.job.metrics.values()]
        return Part(number_of(total), number_of(weight), [(number_of(a), number_of(b)) for a, b in pairs])

    def gradient(self, batch: Any, samples: int) -> Part:
        inputs, targets = batch
        with autograd.record():
            outputs = self.model(inputs)
            total, weight = self._measured(outputs, targets, samples)
        total.backward()
        part = self._part(total, weight, outputs, targets)
        part.gradients = [parameter.grad().asnumpy() for parameter in self.trained.values()]
        part.buffers = self.buffers
        return part

    def evaluate(self, batch: Any, samples: int) -> Part:
        inputs, targets = batch
        outputs = self.model(inputs)
        return self._part(*self._measured(outputs, targets, samples), outputs, targets)

    @property
    def rate(self) -> float:
        """Of the update to come: MXNet counts them from 1 when it asks its schedule."""
        schedule = self.optimizer.lr_scheduler
        return float(self.optimizer.lr if schedule is None else schedule(self.optimizer.num_update + 1))

    def update(self, gradients: Sequence[Array | None]) -> None:
        for number, (parameter, gradient) in enumerate(zip(self.trained.values(), gradients, strict=True)):
            self.updater(number, nd.array(gradient), parameter.data())

    def saved(self) -> Mapping[str, Array]:
        return {name: p.data().asnumpy() for name, p in (*self.trained.items(), *self.statistics.items())}

    def state(self) -> Mapping[str, Array]:
        found = {}
        for number, name in enumerate(self.trained):
            held = self.updater.states[number]
            vectors = {"state": held} if not isinstance(held, tuple) else {f"state.{n}": v for n, v in enumerate(held)}
            found.update({f"{name}/{vector}": value.asnumpy() for vector, value in vectors.items()})
        return found
