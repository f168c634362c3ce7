"""How first values and gradients get where they belong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unisono.frameworks.protocol import Array


def leave(gradient: Any, into: Array, add: bool) -> None:
    """Write a gradient, or add it.

    Args:
        gradient: as an array; 0 where there was none, which is added too, for −0 + 0 = 0.
        into: where.
        add: whether to add.

    >>> sums = np.array([1.0, -0.0])
    >>> leave(0, sums, add=True)
    >>> sums
    array([1., 0.])
    """
    if add:
        np.add(into, gradient, out=into)
    else:
        np.copyto(into, gradient)


def leave_or_nothing(gradient: Any, number: int, into: Mapping[int, Array], used: Array, add: bool) -> None:
    """Write or add a parameter's gradient and mark it as used; None is no gradient.

    >>> sums, used = {1: np.ones(1)}, np.zeros(2)
    >>> leave_or_nothing(np.ones(1), 1, sums, used, add=True)
    >>> sums, used
    ({1: array([2.])}, array([0., 1.]))
    """
    leave(0 if gradient is None else gradient, into[number], add)
    if gradient is not None:
        used[number] = 1


def leave_first(values: Any, into: Array) -> None:
    """Write first values into memory that holds zeros: where they are zeros, no page is asked for before it is needed.

    Args:
        values: an array, or one number for all elements.
        into: where.

    >>> state = np.zeros(2)
    >>> leave_first(-0.0, state)  # another zero
    >>> state
    array([-0., -0.])
    """
    held = np.ascontiguousarray(values, into.dtype)
    if held.reshape(-1).view(np.uint8).any():
        into[...] = held
