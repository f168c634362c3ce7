"""Some samples of a batch are some rows of all that it holds, or there is none."""

from __future__ import annotations

import numpy as np
import pytest

from unisono.partition.rows import NoRows, rows


def test_what_has_no_row_a_sample_has_no_rows() -> None:
    for batch in (np.zeros((3, 2)), np.float32(1), "text", (np.zeros(2), [1, 2])):
        with pytest.raises(NoRows):
            rows(batch, np.array([0, 1, 0, 1]), 2)


def test_every_sample_twice() -> None:
    doubled = rows((np.array([1, 2]), {"ids": np.array([[3], [4]])}), np.tile(np.arange(2), 2), 2)
    assert doubled[0].tolist() == [1, 2, 1, 2]
    assert doubled[1]["ids"].tolist() == [[3], [4], [3], [4]]
