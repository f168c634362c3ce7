"""MXNet's generator, seeded when something may draw from it: its naive engine takes 1 ms to make the states.

A sample read from an array or a file asks nothing of MXNet, and should not wait for that; so a seed is kept until the
next call that runs an operation.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from mxnet.base import _LIB, check_call

ENTRANCES = (
    "MXImperativeInvokeEx", "MXInvokeCachedOpEx", "MXFuncInvokeEx", "MXExecutorForward", "MXNetFuncCall",
    "MXRandomSeed", "MXRandomSeedContext",
)  # fmt: skip
"""The library's functions through which operations run and seeds are set."""

_ORIGINAL = {name: getattr(_LIB, name) for name in ENTRANCES}
_waiting: list[int] = []


def _entrance(name: str) -> Any:
    def enter(*arguments: Any) -> Any:
        _seed_now()
        return _ORIGINAL[name](*arguments)

    return enter


_GUARDED = {name: _entrance(name) for name in ENTRANCES}


def _seed_now() -> None:
    number = _waiting.pop()
    vars(_LIB).update(_ORIGINAL)
    check_call(_ORIGINAL["MXRandomSeed"](number))


def seed_everything(number: int) -> None:
    """Seed the default generators of MXNet, NumPy and Python."""
    _waiting[:] = [number & 0x7FFFFFFF]
    vars(_LIB).update(_GUARDED)
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)
