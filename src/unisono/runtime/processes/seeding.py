"""The generators that a job file's code draws from while it is read and makes its job, before the job says a seed."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from unisono.frameworks.family import Family
from unisono.frameworks.registry import data_of, families, loaded


def seed_all(number: int) -> None:
    """Seed the default generators of Python, NumPy and the frameworks that are imported."""
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)
    for family in loaded():
        data_of(family).seed_everything(number)


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """A block that begins with seeded generators; those of a framework that it imports are seeded then.

    Args:
        number: the seed.
    """
    seed_all(number)
    finder = _Finder(number)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds frameworks as others do, and has their generators seeded once they are loaded."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting = {
            root: (family, draws)
            for family in families() for root, draws in family.drawing.items() if root not in sys.modules
        }  # fmt: skip

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `MetaPathFinder`."""
        if name not in self._waiting:
            return None
        family, draws = self._waiting.pop(name)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            self._seed_after(spec.loader, family, draws)
        return spec

    def _seed_after(self, loader: Any, family: Family, draws: Callable[[], bool]) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            if draws():
                data_of(family).seed_everything(self._number)

        loader.exec_module = exec_module
