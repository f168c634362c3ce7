"""Unisono (JAX) as a contender."""

from __future__ import annotations

from typing import Any

import common
import optax
from jax_models import MODELS, mean_loss

from unisono import Job


def job(case: str = "mlp-32") -> Job:
    """A case as a job."""
    name, batch = common.parsed(case)
    first_values, outputs_of = MODELS[name]

    def forward(variables: Any, inputs: Any, key: Any, training: bool) -> Any:
        return outputs_of(variables, inputs)

    return Job(
        model=first_values, forward=forward, loss=mean_loss, optimizer=optax.sgd(common.RATE, common.MOMENTUM),
        data=common.pairs, batch_size=batch, microbatches=2, steps=100,
    )  # fmt: skip
