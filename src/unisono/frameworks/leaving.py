"""How a gradient gets where it belongs."""

from __future__ import annotations

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
