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
    return tuple(_SAVE[kind]() for kind in kinds)


def load(states: Iterable[Array | None], kinds: Iterable[str] = KINDS) -> None:
    """Put back what `save` gave."""
    for kind, state in zip(kinds, states, strict=True):
        assert state is not None
        _LOAD[kind](state)


def moved(before: tuple[Array, ...], after: tuple[Array, ...]) -> set[str]:
    """Which generators' states differ."""
    return {kind for kind, a, b in zip(KINDS, before, after, strict=True) if not np.array_equal(a, b)}


def _text(value: Any) -> Array:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _numpy_state() -> Array:
    name, keys, *rest = np.random.get_state()
    return _text([name, np.asarray(keys).tolist(), *rest])


def _load_python(state: Array) -> None:
    version, keys, gauss = json.loads(state.tobytes())
    random.setstate((version, tuple(keys), gauss))


def _load_numpy(state: Array) -> None:
    name, keys, *rest = json.loads(state.tobytes())
    np.random.set_state((name, np.array(keys, np.uint32), *rest))


_SAVE = {
    "torch": lambda: torch.get_rng_state().numpy(),
    "python": lambda: _text(random.getstate()),
    "numpy": _numpy_state,
}
_LOAD = {
    "torch": lambda state: torch.set_rng_state(torch.from_numpy(state.copy())),
    "python": _load_python,
    "numpy": _load_numpy,
}
