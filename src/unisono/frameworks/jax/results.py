"""What a microbatch gave, as the core takes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from unisono.errors import JobError
from unisono.frameworks.protocol import Measured


def measured(total: Any, weight: Any, metrics: Any) -> Measured:
    """A training microbatch's loss, weight and metrics.

    Raises:
        JobError: the loss is not finite.
    """
    loss = float(total)
    if not np.isfinite(loss):
        raise JobError(
            f"the loss must be finite; it is {loss}. Lower the learning rate, set clip_norm, or look for bad samples."
        )
    return Measured(loss, float(weight), numbers(metrics))


def numbers(pairs: Any) -> tuple[tuple[float, float], ...]:
    """Metrics' (sum, count) pairs as plain numbers."""
    return tuple((float(total), float(count)) for total, count in pairs)
