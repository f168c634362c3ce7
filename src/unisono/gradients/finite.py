"""Whether all numbers of an array are finite, at the price of one pass over what is in the cache."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def all_finite(values: NDArray[Any]) -> bool:
    """Whether a vector holds neither infinities nor NaN.

    Σ x² is finite only if every x is; it may overflow where all are, so then they are looked at one by one.

    >>> import numpy as np
    >>> [all_finite(np.array(values, np.float32)) for values in ([1, 2], [1, np.nan], [np.inf, 0], [3e38, 0])]
    [True, False, False, True]
    """
    with np.errstate(all="ignore"):
        squares = float(np.dot(values, values))
    return math.isfinite(squares) or bool(np.isfinite(values).all())
