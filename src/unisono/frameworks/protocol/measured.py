"""What a microbatch gives besides its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """What one microbatch gave: sums, so that they can be added over microbatches."""

    loss: float
    weight: float
    metrics: tuple[tuple[float, float], ...] = ()
    outputs: Any = None
