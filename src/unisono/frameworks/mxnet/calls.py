"""How the model, the loss and the metrics of a job are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mxnet.gluon import Block
from mxnet.ndarray import NDArray

from unisono.errors import JobError, UsageError
from unisono.frameworks.jobs import CUTS_BY_HAND, called, refuse, sums
from unisono.frameworks.lossrules import check_loss
from unisono.frameworks.mxnet.metrics import as_float
from unisono.frameworks.protocol import Measured
from unisono.job import Job


def _check(job: Job, model: Any) -> None:
    if not isinstance(model, Block):
        raise UsageError(
            f"the model of an MXNet job is a gluon Block; received {type(model).__name__}. Write model=Net or "
            "model=lambda: Net(...); wrap a Symbol in gluon.SymbolBlock."
        )
    if not callable(job.loss):
        raise UsageError(
            f"the loss of an MXNet job is a gluon loss or a function (outputs, targets); received {job.loss!r}. Write "
            "loss=gluon.loss.SoftmaxCrossEntropyLoss()."
        )
    if job.precision != "float32":
        raise UsageError(
            f"MXNet jobs compute in float32: its mixed precision was made for GPUs and rewrites the graph; received "
            f"precision={job.precision!r}. Leave it out."
        )
    refuse(
        job, CUTS_BY_HAND, "a gluon Sequential is cut between its blocks, without being told where", "Leave it out"
    )  # fmt: skip


class Calls:
    """A job's functions on its model.

    Args:
        job, model: the job and its model.

    Raises:
        UsageError: a field is none of MXNet's.
    """

    def __init__(self, job: Job, model: Any) -> None:
        _check(job, model)
        self._job, self._model = job, model

    def forward(self, inputs: Any) -> Any:
        """The model's outputs."""
        if self._job.forward is not None:
            return self._job.forward(self._model, inputs)
        if isinstance(inputs, Mapping):
            raise JobError(
                f"gluon blocks take their inputs by position; received a mapping of {', '.join(map(str, inputs))}. "
                "Pass forward=(model, inputs) -> outputs."
            )
        return called(self._model, inputs)

    def loss(self, outputs: Any, targets: Any, samples: int) -> tuple[Any, float]:
        """(Σ loss, weight) of what the job's loss gave: one value a sample, their mean, or (total, weight)."""
        result = self._job.loss(outputs, targets)
        if isinstance(result, tuple):
            return result[0], as_float(result[1])
        shape = result.shape if isinstance(result, NDArray) else None
        size = None if shape is None else int(np.prod(shape))
        if size == samples:
            return result.sum(), float(samples)
        if size == 1:
            return result * samples, float(samples)
        raise JobError(
            f"job.loss must return one value a sample ({samples} here), their mean, or (total, weight); received "
            f"{type(result).__name__ if shape is None else shape}. gluon's losses do the first; else return "
            "(losses.sum(), losses.size)."
        )

    def metrics(self, functions: Mapping[str, Any], outputs: Any, targets: Any) -> tuple[tuple[float, float], ...]:
        """(sum, count) of each function of metrics."""
        return sums((metric(outputs, targets) for metric in functions.values()), as_float)

    def finite(self, total: Any, weight: float, outputs: Any) -> float:
        """The loss as a number.

        Raises:
            JobError: it is not finite.
        """
        loss = as_float(total)
        check_loss(loss, weight, lambda: bool(np.isfinite(outputs.asnumpy()).all()))
        return loss

    def measured(self, total: Any, weight: float, outputs: Any, targets: Any) -> Measured:
        """What a training microbatch gave.

        Raises:
            JobError: its loss is not finite.
        """
        loss = self.finite(total, weight, outputs)
        return Measured(loss, weight, self.metrics(self._job.training_metrics, outputs, targets))
