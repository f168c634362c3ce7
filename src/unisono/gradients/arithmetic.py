"""The operations on arrays that sums and updates are made of: the one place that knows in whose memory these lie.

All work in place, on vectors of one dtype. A gradient is divided and scaled in its own precision.
"""

from __future__ import annotations

import math

import numpy as np

from unisono.values.arrays import Array


def add(left: Array, right: Array, out: Array) -> Array:
    """`out` = left + right; returns it."""
    return np.add(left, right, out=out)


def divide(values: Array, by: float, out: Array) -> None:
    """`out` = values / by.

    >>> out = np.empty(2, np.float32)
    >>> divide(np.array([1, 2], np.float32), 4.0, out)
    >>> scale(out, 2.0)
    >>> out
    array([0.5, 1. ], dtype=float32)
    """
    np.divide(values, out.dtype.type(by), out=out)


def scale(values: Array, by: float) -> None:
    """Multiply in place."""
    np.multiply(values, values.dtype.type(by), out=values)


def copy(values: Array, out: Array) -> None:
    """`out` = values."""
    np.copyto(out, values)


def room(like: Array) -> Array:
    """Memory for such an array, with any content."""
    return np.empty_like(like)


def in_order(rows: Array) -> Array:
    """The sum of rows, one after another.

    >>> in_order(np.array([[1, 2], [3, 4], [5, 6]]))
    array([ 9, 12])
    """
    total: Array = np.add.accumulate(rows, axis=0)[-1]
    return total


def any_of(rows: Array) -> Array:
    """Which bits are set in any row.

    >>> any_of(np.array([[1, 0], [0, 0]], np.uint8))
    array([1, 0], dtype=uint8)
    """
    found: Array = np.bitwise_or.reduce(rows, axis=0)
    return found


def all_finite(values: Array) -> bool:
    """Whether a vector holds neither infinities nor NaN, at the price of one pass over what is in the cache.

    Σ x² is finite only if every x is; it may overflow where all are, so then they are looked at one by one.

    >>> import numpy as np
    >>> [all_finite(np.array(values, np.float32)) for values in ([1, 2], [1, np.nan], [np.inf, 0], [3e38, 0])]
    [True, False, False, True]
    """
    with np.errstate(all="ignore"):
        squares = float(np.dot(values, values))
    return math.isfinite(squares) or bool(np.isfinite(values).all())
