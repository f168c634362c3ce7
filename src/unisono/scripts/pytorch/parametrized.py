"""Modules whose parameters are computed from others (torch.nn.utils.parametrize): how they travel, which PyTorch leaves
to nobody, and that what is computed for one microbatch is not kept for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from unisono.scripts.pytorch.wrapping import MARK


def reduced(module: nn.Module) -> Any:
    """A parametrized module for pickle: its class is made anew."""
    names = tuple(module.parametrizations)  # type: ignore[arg-type]
    return _made, (_class_before(type(module)), names), dict(vars(module))


def _class_before(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that a person gave a module, before its first parametrization."""
    while MARK in vars(kind) or (kind.__module__ == parametrize.__name__ and kind.__name__.startswith("Parametrized")):
        kind = kind.__bases__[0]
    return kind


def _made(kind: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    module: nn.Module = kind.__new__(kind)
    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)
    return module


@contextmanager
def uncached() -> Iterator[None]:
    """A block in which each use computes anew, also inside `parametrize.cached()`."""
    before, parametrize._cache_enabled = parametrize._cache_enabled, 0
    try:
        yield
    finally:
        parametrize._cache_enabled = before
