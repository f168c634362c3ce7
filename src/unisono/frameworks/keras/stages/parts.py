"""What stages need of an adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.frameworks.keras.variables import Variables
from unisono.frameworks.protocol import Array, Measured


@dataclass(frozen=True)
class Parts:
    """An adapter's own pieces, shared with its stages.

    Attributes:
        model, variables, backend: see `Adapter`.
        loss: (targets, outputs) → per-sample values, their mean, or (total, weight).
        values: () → the parameters, buffers and seeds as tensors.
        tensors: (batch) → (inputs, targets) as tensors.
        count: (samples) → their number as a tensor.
        measured: (Σ loss, weight, outputs, targets) → what the core sees; refuses a loss that is not finite.
        live: the buffers' arrays.
    """

    model: Any
    variables: Variables
    backend: Any
    loss: Callable[..., Any]
    values: Callable[[], tuple[Sequence[Any], Sequence[Any], Sequence[Any]]]
    tensors: Callable[[Any], tuple[Any, Any]]
    count: Callable[[int], Any]
    measured: Callable[[Any, Any, Any, Any], Measured]
    live: Sequence[Array]
