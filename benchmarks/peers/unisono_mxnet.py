"""Unisono (MXNet) as a contender."""

from __future__ import annotations

import common
import mxnet
from mxnet_models import MODELS

from unisono import Job


def job(case: str = "mlp-32") -> Job:
    """A case as a job."""
    name, batch = common.parsed(case)
    return Job(
        model=MODELS[name], loss=mxnet.gluon.loss.SoftmaxCrossEntropyLoss(),
        optimizer=mxnet.optimizer.SGD(learning_rate=common.RATE, momentum=common.MOMENTUM),
        data=lambda: mxnet.gluon.data.ArrayDataset(*common.arrays()), batch_size=batch, microbatches=2, steps=100,
    )  # fmt: skip
