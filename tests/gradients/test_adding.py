"""Arrays added along a tree: the sum that the tree says, in place, and never over what is still needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sums import along
from unisono.gradients.adding import TreeAdder

trees = st.recursive(
    st.tuples(st.integers(0, 9), st.just("buffer")), lambda below: st.tuples(below, below), max_leaves=12
)


@given(st.lists(st.tuples(trees, st.integers(0, 5), st.sampled_from(["float32", "float64"])), min_size=1, max_size=4))
def test_the_tree_s_own_additions_whatever_was_added_before(sums: list[tuple[Any, int, str]]) -> None:
    add = TreeAdder()  # its temporaries serve sums of other sizes and dtypes
    for tree, size, dtype in sums:
        leaves = np.random.default_rng(size).standard_normal((10, size)).astype(dtype) ** 3
        before, out = leaves.copy(), np.full(size, np.nan, dtype)
        found = add(tree, lambda number, what, leaves=leaves: leaves[number], out)
        assert found.dtype == dtype
        assert found.tobytes() == along(tree, lambda number, what, leaves=leaves: leaves[number]).tobytes()
        assert leaves.tobytes() == before.tobytes()
        assert np.shares_memory(found, leaves if isinstance(tree[0], int) else out) or not size


def full(levels: int, first: int = 0) -> Any:
    return (first,) if levels == 0 else (full(levels - 1, first), full(levels - 1, first + 2 ** (levels - 1)))


@pytest.mark.parametrize(("levels", "temporaries"), [(1, 0), (2, 1), (3, 2), (4, 3)])
def test_a_full_tree_needs_a_temporary_a_level_but_the_lowest(levels: int, temporaries: int) -> None:
    add = TreeAdder()
    for _ in range(2):
        assert add(full(levels), lambda number: np.full(3, 2.0**number), np.empty(3))[0] == 2**2**levels - 1
    assert [held.nbytes for held in add._temporaries] == [24] * temporaries
