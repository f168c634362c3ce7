"""Samples as bytes: what arrives is what was sent, and what cannot travel is named."""

from __future__ import annotations

import json
import math
import struct
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unisono.errors import JobError
from unisono.hosts.sample_bytes import DEEPEST, decoded, encoded
from unisono.values.untrusted import Malformed

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
    "what",
    [object(), {1, 2}, np.ndarray(3, "S0", b""), np.array([None]), {(1, 2): 3}, 1j],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_travel_is_named(what: Any) -> None:
    with pytest.raises(JobError, match=r"samples that travel between hosts are numbers.*received"):
        encoded((what, 0), NOTHING)


def test_tensors_of_each_framework_arrive_as_what_collate_expects() -> None:
    torch = pytest.importorskip("torch")
    from unisono.frameworks.pytorch.data import Data

    for sent in (torch.arange(6).reshape(2, 3).T, torch.tensor(1.5), torch.ones(3, dtype=torch.bfloat16) / 3):
        got = decoded(encoded([sent, "a"], Data()), Data())[0]
        assert got.dtype == sent.dtype
        assert torch.equal(got, sent)


def described(description: Any, values: bytes = b"") -> bytes:
    """Bytes as another host may send them."""
    text = description if isinstance(description, bytes) else json.dumps(description).encode()
    return struct.pack("=q", len(text)) + text + values


def numbers(value: Any) -> Any:
    """What is in a value, read to the last: bytes that are no values would show."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


DESCRIPTIONS = st.recursive(
    st.tuples(
        st.sampled_from(["array", "scalar", "tensor", "bytes", "plain", "other"]),
        st.sampled_from(["O", "|O", "object", "i4,i4", "(9,)f4", "V8", "<U2", "|b1", "<f4", ">M8[s]", "|S0", 3, None])
        | st.text(),
        st.lists(st.integers(-(2**70), 2**70), max_size=40) | st.lists(st.integers(0, 3), max_size=3) | st.text(),
        st.text() | st.none(),
    ).map(list) | st.text() | st.integers() | st.none(),
    lambda inner: st.tuples(st.sampled_from(["tuple", "list", "dict"]), st.lists(inner, max_size=3)).map(list),
)  # fmt: skip


@given(st.binary() | st.builds(described, DESCRIPTIONS | st.binary(), st.binary(max_size=40)))
def test_whatever_comes_is_samples_or_malformed(data: bytes) -> None:
    with suppress(Malformed):
        numbers(decoded(data, NOTHING))


@given(SAMPLES, st.data())
def test_a_changed_byte_is_another_sample_or_malformed(sample: Any, draw: st.DataObject) -> None:
    data = bytearray(encoded(sample, NOTHING))
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    with suppress(Malformed):
        numbers(decoded(bytes(data), NOTHING))


@pytest.mark.parametrize(("description", "values", "text"), [
    (["array", "O", [1]], b"\0" * 8, "numbers, truth values and text; received the type 'O'"),
    (["array", "|O8", [1]], b"\1" * 8, "numbers, truth values and text"),
    (["scalar", "object", []], b"\1" * 8, "numbers, truth values and text"),
    (["array", "i4,i4", [1]], b"\1" * 8, "numbers, truth values and text"),
    (["array", "(2,)i4", [1]], b"\1" * 8, "numbers, truth values and text"),
    (["array", "<f4", [2**31, 2**31]], b"", "18,446,744,073,709,551,616 bytes, where 0 are left"),
    (["array", "<f4", [-1, -1]], b"\0" * 4, "an array of shape"),
    (["array", "|S0", [2**62]], b"", "an array of shape"),
    (["array", "|S0", [2]], b"", "elements of no bytes"),
    (["array", "<f4", [1] * 99], b"\0" * 4, "an array of shape"),
    (["array", "<f4", ["1"]], b"\0" * 4, "must be a whole number"),
    (["array", "|b1", [1]], b"\7", "no such values"),
    (["array", "<U1", [1]], b"\xff" * 4, "no such values"),
    (["array", "<f4", [1]], b"\0" * 5, "1 bytes more"),
    (["dict", [[[], ["plain", 1]]]], b"", "no name with its value"),
    (["plain", {}], b"", "no description of a value"),
    (b"[" * 10**5, b"", "nested more than"),
    (b'["list",[' * 200 + b"]]" * 200, b"", "nested more than"),
])  # fmt: skip
def test_what_is_refused_is_refused_before_anything_is_made(description: Any, values: bytes, text: str) -> None:
    with pytest.raises(Malformed, match=text):
        decoded(described(description, values), NOTHING)


def test_as_deep_as_may_be_sent_may_be_received() -> None:
    for wrap in (lambda inner: [inner], lambda inner: {"a": inner}):
        sample: Any = np.float32(1)
        for _ in range(DEEPEST):
            sample = wrap(sample)
        assert is_same(decoded(encoded(sample, NOTHING), NOTHING), sample)
        with pytest.raises(JobError, match=f"more than {DEEPEST} of these within each other"):
            encoded(wrap(sample), NOTHING)


def test_a_framework_that_has_no_such_tensor_is_no_crash() -> None:
    pytest.importorskip("torch")
    from unisono.frameworks.pytorch.data import Data

    with pytest.raises(Malformed, match="no tensor can be made of <U1"):
        decoded(described(["tensor", "<U1", [1], ""], bytes(4)), Data())
