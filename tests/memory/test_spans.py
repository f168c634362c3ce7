"""What views hold together is the memory that they span, once."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.memory.spans import Pieces, Span, viewed

TABLE = np.arange(2000, dtype=np.float64).reshape(100, 20)
TEXT = np.arange(600)


def travelled(arrays: list[Any]) -> tuple[list[Any], int]:
    """Arrays after a journey, and its bytes."""
    pieces = Pieces([Span.of(array) for array in arrays])
    payload = pickle.dumps([pieces.view(array) for array in arrays], 5)
    return [viewed(*view) for view in pickle.loads(payload)], len(payload)


@pytest.mark.parametrize(("arrays", "most"), [
    ([TABLE[row] for row in range(100)], TABLE.nbytes),
    ([TABLE[:, column] for column in range(20)], TABLE.nbytes),
    ([TABLE.T, TABLE[::-1], TABLE[::2, 5:]], TABLE.nbytes),
    ([TEXT[start : start + 300] for start in range(300)], TEXT.nbytes),
    ([TABLE[7:9]], TABLE[7:9].nbytes),
    ([TABLE[:, 3]], TABLE[:, 3].nbytes),
    ([np.broadcast_to(TABLE[0], (5000, 20))], TABLE[0].nbytes),
    ([np.broadcast_to(TABLE[:, 3], (500, 100))], TABLE[:, 3].nbytes),
    ([np.array(3.0), TABLE[4, 5:6].reshape(())], 16),
], ids=["rows", "columns", "turned", "windows", "slice", "column", "repeated", "repeated column", "0"])  # fmt: skip
def test_views_come_back_for_what_they_span(arrays: list[Any], most: int) -> None:
    back, size = travelled(arrays)
    assert size <= most + 120 * len(arrays) + 500
    for array, other in zip(arrays, back, strict=True):
        assert other.dtype == array.dtype
        np.testing.assert_array_equal(other, array)


def test_places_and_sharing_stay() -> None:
    whole, part = travelled([TABLE, TABLE[3:5, ::2]])[0]
    assert np.shares_memory(whole, part)
    assert part.strides == TABLE[3:5, ::2].strides
    assert whole.ctypes.data % 64 == TABLE.ctypes.data % 64
    whole[3, 0] = -1
    assert part[0, 0] == -1


def test_what_may_not_be_written_may_not_be_afterwards() -> None:
    fixed = np.arange(9)
    fixed.flags.writeable = False
    assert not travelled([fixed])[0][0].flags.writeable


def test_a_mapped_file_travels_by_its_name(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "numbers", np.float32, "w+", 8 * 4096, (1000, 100))
    mapped[:] = 1
    arrays = [*mapped, np.asarray(mapped)[2:5]]
    back, size = travelled(arrays)
    assert size < 100 * len(arrays)
    mapped[4, 3] = 7
    assert back[4][3] == back[-1][2, 3] == 7, "it is the same file"


def test_a_mapping_of_which_others_see_nothing_travels_as_memory(tmp_path: Path) -> None:
    np.arange(100).tofile(tmp_path / "numbers")
    private = np.memmap(tmp_path / "numbers", np.int64, "c")
    private[3] = -1
    assert travelled([private[2:5]])[0][0].tolist() == [2, -1, 4]
