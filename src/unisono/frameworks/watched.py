"""What a forward pass may not change: the parameters, which all microbatches of a step share."""

from __future__ import annotations

from unisono.frameworks.protocol import Array

LOOKED_AT = 16
"""Elements of a parameter that are compared where its framework leaves no other trace of a change."""


def some_of(values: Array) -> Array:
    """A view of a few elements of a contiguous array, from the first to the last.

    >>> import numpy as np
    >>> some_of(np.arange(61).reshape(61, 1)).tolist()
    [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60]
    """
    flat = values.reshape(-1)
    return flat[:: max(1, (flat.size - 1) // (LOOKED_AT - 1))]


def refusal(what: str, ways_out: str) -> str:
    """What is said of a change.

    Args:
        what: the parameter.
        ways_out: what to write instead.
    """
    return (
        "a forward pass may not change parameters, which all microbatches of a step share; it has changed "
        f"{what}. {ways_out}."
    )
