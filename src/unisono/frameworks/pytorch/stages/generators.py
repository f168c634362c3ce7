"""The states of the default random generators, as arrays that can travel."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from unisono.frameworks.protocol import Array

KINDS = ("torch", "python", "numpy")


def save(kinds: Iterable[str] = KINDS) -> tuple[Array, ...]:
    """The states of these generators, a uint8 array each."""
    return tuple(map(_state, kinds))


def load(states: Iterable[Array | None], kinds: Iterable[str] = KINDS) -> None:
    """Put back what `save` gave."""
    for kind, state in zip(kinds, states, strict=True):
        assert state is not None
        if kind == "torch":
            torch.set_rng_state(torch.from_numpy(state.copy()))
            continue
        name, keys, *rest = json.loads(state.tobytes())
        if kind == "python":
            random.setstate((name, tuple(keys), *rest))
        else:
            np.random.set_state((name, np.array(keys, np.uint32), *rest))


def moved(before: tuple[Array, ...], after: tuple[Array, ...]) -> set[str]:
    """Which generators' states differ."""
    return {kind for kind, a, b in zip(KINDS, before, after, strict=True) if not np.array_equal(a, b)}


def _state(kind: str) -> Array:
    if kind == "torch":
        return torch.get_rng_state().numpy()
    state: Any = random.getstate() if kind == "python" else np.random.get_state()
    return np.frombuffer(json.dumps(state, default=np.ndarray.tolist).encode(), np.uint8)
