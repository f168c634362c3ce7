"""Samples as bytes: what arrives is what was sent, and what cannot travel is named."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unisono.cluster.sample_bytes import decoded, encoded
from unisono.errors import JobError

NOTHING: Any = SimpleNamespace(TENSORS=())

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, min_side=0))
    | arrays.from_dtype(np.dtype("float32")) | arrays.from_dtype(np.dtype("int8"))
)  # fmt: skip
SAMPLES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
)  # fmt: skip


def is_same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, np.ndarray | np.generic):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return bool(one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other)))


@given(SAMPLES)
def test_what_arrives_is_what_was_sent(sample: Any) -> None:
    assert is_same(decoded(encoded(sample, NOTHING), NOTHING), sample)


def test_arrays_in_any_order_arrive_and_are_private() -> None:
    sent = np.arange(12.0).reshape(3, 4)[::2, ::-1]
    got = decoded(encoded(sent, NOTHING), NOTHING)
    got += 1
    assert np.array_equal(got, sent + 1)


@pytest.mark.parametrize(
    "what", [object(), {1, 2}, np.array([None]), {(1, 2): 3}, 1j], ids=lambda value: type(value).__name__
)
def test_what_cannot_travel_is_named(what: Any) -> None:
    with pytest.raises(JobError, match=r"samples that travel between hosts are numbers.*received"):
        encoded((what, 0), NOTHING)


def test_tensors_of_each_framework_arrive_as_what_collate_expects() -> None:
    torch = pytest.importorskip("torch")
    from unisono.frameworks.pytorch import data as functions

    for sent in (torch.arange(6).reshape(2, 3).T, torch.tensor(1.5), torch.ones(3, dtype=torch.bfloat16) / 3):
        got = decoded(encoded([sent, "a"], functions), functions)[0]  # type: ignore[arg-type]
        assert got.dtype == sent.dtype
        assert torch.equal(got, sent)
