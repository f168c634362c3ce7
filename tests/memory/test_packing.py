"""Structures come back from shared memory with their arrays aligned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unisono.errors import JobError
from unisono.memory.packing import pack, unpack

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
