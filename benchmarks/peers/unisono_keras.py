"""Unisono (Keras) as a contender."""

from __future__ import annotations

import common
import keras
from keras_models import MODELS

from unisono import Job


def job(case: str = "mlp-32") -> Job:
    """A case as a job."""
    name, batch = common.parsed(case)
    return Job(
        model=MODELS[name], loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.SGD(common.RATE, momentum=common.MOMENTUM), data=common.pairs, batch_size=batch,
        microbatches=2, steps=100,
    )  # fmt: skip
