"""A block's partial of the norm has the same bits from NumPy, torch and JAX: nothing but whole vectors are added."""

from __future__ import annotations

import importlib
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest

from unisono.gradients.norms import ROW, block_sums
from unisono.gradients.regions import BLOCK

SIZES = [1, 2, 3, 255, ROW, ROW + 1, 768, 1000, BLOCK - 1, *[BLOCK] * 41]


def partial(block: Any) -> float:
    """docs/determinism.md's rule 6, in the library whose array this is."""
    total: Any = reduce(add, (block * block).reshape(-1, ROW))
    while len(total) > 1:
        total = total[: len(total) // 2] + total[len(total) // 2 :]
    return float(total[0])


@pytest.mark.parametrize(
    ("framework", "array", "dtype"),
    [
        ("", "numpy:array", "float32"),
        ("pytorch", "torch:from_numpy", "float32"),
        ("pytorch", "torch:from_numpy", "float64"),
        ("jax", "jax.numpy:array", "float32"),
    ],
)
def test_libraries_give_the_same_bits(framework: str, array: str, dtype: str) -> None:
    module, name = array.split(":")
    convert = getattr(pytest.importorskip(module), name)
    if framework:
        importlib.import_module(f"unisono.frameworks.{framework}.data").Data().pin(1)  # for later tests, too
    generator = np.random.default_rng(0)
    for size in SIZES:
        values = (generator.standard_normal(size) * 10.0 ** generator.integers(-9, 9, size)).astype(dtype)
        found, filled = np.empty(1), np.zeros(BLOCK, dtype)
        filled[:size] = values
        block_sums(values, found)
        assert found[0] == partial(convert(filled)), size
