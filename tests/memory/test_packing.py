"""Structures come back from shared memory with their arrays aligned."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from unisono.errors import JobError
from unisono.memory.packing import dumps, pack, packed_bytes, unpack

NOTHING: dict[type, Any] = {}


def test_structures_come_back() -> None:
    memory = np.zeros(1 << 16, np.uint8)
    pack({"a": [np.arange(5), "text"], "b": (np.zeros((3, 2), np.float32), None)}, memory, NOTHING)
    back = unpack(memory)
    assert back["a"][1] == "text"
    assert (back["a"][0] == np.arange(5)).all()
    assert back["b"][0].shape == (3, 2)
    assert (back["b"][0].ctypes.data - memory.ctypes.data) % 64 == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_arrays_comes_back(count: int) -> None:
    memory = np.zeros(1 << 16, np.uint8)
    pack([np.full(n + 1, n) for n in range(count)], memory, NOTHING)
    assert [array.tolist() for array in unpack(memory)] == [[n] * (n + 1) for n in range(count)]


def test_what_does_not_fit_says_so() -> None:
    with pytest.raises(JobError, match="more microbatches"):
        pack(np.zeros(1000), np.zeros(64, np.uint8), NOTHING)


def test_what_fits_just_fits() -> None:
    value = [np.arange(3, dtype=np.uint8), "text" * 30, np.ones(70)]
    with pytest.raises(JobError, match="may take 0 bytes; these take") as error:
        pack(value, np.empty(0, np.uint8), NOTHING)
    needed = int(str(error.value).split("these take ")[1].split(".")[0].replace(",", ""))
    with pytest.raises(JobError, match="more microbatches"):
        pack(value, np.empty(needed - 1, np.uint8), NOTHING)
    memory = np.full(needed + 64, 0xFF, np.uint8)
    pack(value, memory[:needed], NOTHING)
    few, text, many = unpack(memory)
    assert (few.tolist(), text, many.tolist()) == ([0, 1, 2], "text" * 30, [1.0] * 70)
    assert (memory[needed:] == 0xFF).all()
    assert [(array.ctypes.data - memory.ctypes.data) % 64 for array in (few, many)] == [0, 0]
    assert np.shares_memory(many, memory)


class Tensor:
    """A framework's tensor, which NumPy does not know."""

    def __init__(self, values: Any) -> None:
        self.values = values


def reduced(tensor: Tensor) -> tuple[Any, ...]:
    return Tensor, (np.asarray(tensor.values),)


def test_tensors_are_sent_as_their_framework_says() -> None:
    reducers, memory = {Tensor: reduced}, np.zeros(1 << 12, np.uint8)
    value = {"tensor": Tensor([1, 2, 3]), "number": 5}
    pack(value, memory, reducers)
    assert unpack(memory)["tensor"].values.tolist() == [1, 2, 3]
    assert np.shares_memory(unpack(memory)["tensor"].values, memory)
    assert packed_bytes(value, reducers) == 24
    back = pickle.loads(dumps(value, reducers))
    assert back["tensor"].values.tolist() == [1, 2, 3]
    assert back["number"] == 5
    assert type(pickle.loads(dumps(Tensor([1]), {})).values) is list
