"""Activations pass through shared memory as they lie in memory, aligned, and nothing is pickled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unisono.errors import JobError
from unisono.memory.crossing import MOST_AXES, read, write


@given(
    st.lists(st.integers(0, 4), max_size=5).flatmap(
        lambda shape: st.tuples(st.just(shape), st.permutations(range(len(shape))))
    ),
    st.sampled_from(["float32", "float64", "uint16", "int64", "bool"]),
)
def test_arrays_come_back_with_their_order_in_memory(shaped: tuple[list[int], list[int]], dtype: str) -> None:
    shape, axes = shaped
    memory = np.zeros(1 << 16, np.uint8)
    array = (np.arange(np.prod(shape, dtype=int)) % 7).astype(dtype).reshape(shape).transpose(axes)
    write([None, array], {"step": [1, 2.5, "x", None]}, memory)
    (absent, back), plain = read(memory)
    assert absent is None
    assert back is not None
    assert plain == {"step": [1, 2.5, "x", None]}
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()
    assert back.shape == array.shape
    if array.size and all(length > 1 for length in shape):
        assert back.strides == array.strides
    assert np.shares_memory(back, memory) or not back.size
    assert (back.ctypes.data - memory.ctypes.data) % 64 == 0 or not back.size


def test_expanded_arrays_are_written_out() -> None:
    memory = np.zeros(1 << 12, np.uint8)
    write([np.broadcast_to(np.float32(3), (4, 2))], None, memory)
    (back,), plain = read(memory)
    assert plain is None
    assert back is not None
    assert (back == 3).all()
    assert back.shape == (4, 2)


def test_what_does_not_fit_says_so() -> None:
    with pytest.raises(JobError, match=r"may take 4,096 bytes; this takes 8,\d+\. Use more microbatches"):
        write([np.zeros(1000)], None, np.zeros(4096, np.uint8))


def test_no_bytes_become_addresses() -> None:
    memory = np.zeros(1 << 12, np.uint8)
    with pytest.raises(JobError, match="arrays in shared memory hold numbers"):
        write([np.array([{}])], None, memory)
    write([np.ones(1, np.int64)], None, memory)
    start = memory.tobytes().index(b"<i8")
    memory[start : start + 3] = np.frombuffer(b"|O8", np.uint8)
    with pytest.raises(JobError, match="arrays in shared memory hold numbers"):
        read(memory)


def test_what_json_cannot_hold_is_named() -> None:
    with pytest.raises(JobError, match=r"values that JSON can hold; received \{1j\}"):
        write([], {1j}, np.zeros(4096, np.uint8))


def test_what_fits_just_fits() -> None:
    arrays = [np.arange(5, dtype=np.int16), None, np.ones((3, 7)), np.zeros(0), np.float32(2)[...]]
    with pytest.raises(JobError, match="may take 0 bytes") as error:
        write(arrays, ["plain"], np.empty(0, np.uint8))
    needed = int(str(error.value).split("this takes ")[1].split(".")[0].replace(",", ""))
    with pytest.raises(JobError, match="Use more microbatches"):
        write(arrays, ["plain"], np.empty(needed - 1, np.uint8))
    memory = np.full(needed + 64, 0xFF, np.uint8)  # what lay there before is no part of it
    write(arrays, ["plain"], memory[:needed])
    found, plain = read(memory)
    assert plain == ["plain"]
    assert (memory[needed:] == 0xFF).all()
    for array, back in zip(arrays, found, strict=True):
        assert (array is None) == (back is None)
        if array is not None and back is not None:
            assert (back.dtype, back.shape, back.tolist()) == (array.dtype, array.shape, array.tolist())
            assert (back.ctypes.data - memory.ctypes.data) % 64 == 0


def test_arrays_have_eight_axes_at_most() -> None:
    memory = np.zeros(1 << 12, np.uint8)
    write([np.arange(6).reshape(1, 2, 1, 3, 1, 1, 1, 1).transpose(3, 1, 0, 2, 4, 5, 6, 7)], None, memory)
    (back,), _ = read(memory)
    assert back is not None
    assert back[:, :, 0, 0, 0, 0, 0, 0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert MOST_AXES == 8


@pytest.mark.parametrize("array", [
    np.arange(6).reshape(2, 3)[:, ::-1], np.arange(6).reshape(2, 3)[::-1], np.broadcast_to(np.arange(3), (2, 3)),
])  # fmt: skip
def test_reversed_and_expanded_axes_are_written_in_their_order(array: NDArray[Any]) -> None:
    memory = np.zeros(1 << 12, np.uint8)
    write([array], None, memory)
    (back,), _ = read(memory)
    assert back is not None
    assert back.tolist() == array.tolist()
    assert back.flags.c_contiguous
