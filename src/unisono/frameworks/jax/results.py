"""What a microbatch gave, as the core takes it."""

from __future__ import annotations

from typing import Any

from unisono.frameworks.jobs import sums
from unisono.frameworks.lossrules import check_loss
from unisono.frameworks.protocol import Measured


def measured(total: Any, weight: Any, metrics: Any) -> Measured:
    """A training microbatch's loss, weight and metrics.

    Raises:
        JobError: the loss is not finite.
    """
    loss, number = float(total), float(weight)
    check_loss(loss, number, lambda: None)
    return Measured(loss, number, sums(metrics))
