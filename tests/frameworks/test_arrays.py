"""A gradient that is added at once gives the bits of one that is written and added later."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unisono.frameworks.arrays import leave
from unisono.frameworks.protocol import Array

VALUES = arrays(np.float32, 5, elements=st.floats(width=32, allow_nan=False))


@given(VALUES, VALUES | st.just(0))
def test_adding_at_once_is_adding_later(before: Array, gradient: Array | int) -> None:
    at_once, later, own = before.copy(), before.copy(), np.full(5, np.nan, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        leave(gradient, at_once, add=True)
        leave(gradient, own, add=False)
        np.add(later, own, out=later)
    assert at_once.tobytes() == later.tobytes()
