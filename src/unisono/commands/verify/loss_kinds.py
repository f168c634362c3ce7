"""What kind of number a loss is, seen from its values on a batch and on parts of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["mean", "sum", "weighted", "coupled"]

CLOSE = 1e-4
"""How far two ways of computing one loss may be apart, beside its size: rounding, and more for short floats."""

LIKELY = 0.02
"""How far a value may be from what weights foretell, beside the spread of the parts' values."""


@dataclass(frozen=True)
class Value:
    """A loss on some samples: Σ loss and its weight; their quotient is what is minimised."""

    total: float
    weight: float

    @property
    def mean(self) -> float:
        """The loss."""
        return self.total / self.weight if self.weight else 0.0

    def __add__(self, other: Value) -> Value:
        return Value(self.total + other.total, self.weight + other.weight)


def close(one: float, other: float, tolerance: float = CLOSE) -> bool:
    """Whether two numbers differ by rounding alone."""
    return abs(one - other) <= tolerance * max(abs(one), abs(other), 1e-12)


def kind_of(whole: Value, parts: Sequence[Value], pairs: Sequence[Value], tolerance: float = CLOSE) -> Kind:
    """What a loss is.

    Args:
        whole: of a batch.
        parts: of its parts, in order; three or more tell most.
        pairs: of each part together with the next.
        tolerance: see `close`.

    Returns:
        "mean": over samples, or Σ over the weight that it says; "sum": over samples; "weighted": a mean by weights that
        it does not say; "coupled": none of these, so that a sample's loss depends on the others.

    >>> parts = [Value(2, 2), Value(6, 2), Value(4, 2)]
    >>> kind_of(Value(12, 6), parts, [Value(8, 4), Value(10, 4)])
    'mean'
    >>> parts = [Value(2 * mean, 2) for mean in (1.0, 3.0, 2.0)]  # weights 1, 3 and 1 that it does not say
    >>> kind_of(Value(6 * 2.4, 6), parts, [Value(4 * 2.5, 4), Value(4 * 2.75, 4)])
    'weighted'
    >>> kind_of(Value(6 * 5.0, 6), parts, [Value(4 * 4.0, 4), Value(4 * 4.0, 4)])
    'coupled'
    """
    if close(whole.mean, sum(parts[1:], parts[0]).mean, tolerance):
        return "mean"
    values = [part.mean for part in parts]
    if any(math.isnan(value) for value in values):
        return "weighted"  # a mean over nothing: no sample of that part counts
    if close(whole.mean, sum(values), tolerance):
        return "sum"
    weights = [1.0]
    for before, both, after in zip(values, pairs, values[1:], strict=False):
        weights.append(weights[-1] * _weight(before, both.mean, after))
    foretold = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    fits = min(weights) > 0 and abs(foretold - whole.mean) <= LIKELY * (max(values) - min(values))
    return "weighted" if fits else "coupled"


def _weight(before: float, both: float, after: float) -> float:
    """How much a part weighs beside the one before, in the mean of both; 0 or less where that is no mean of them."""
    return (before - both) / (both - after) if both != after else 0.0
