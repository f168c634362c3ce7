"""Two versions of something that grows: the next is written beside the one in force, and neither touches the other."""

from __future__ import annotations

import numpy as np
import pytest

from unisono.errors import JobError
from unisono.memory.segment import ALIGNMENT
from unisono.memory.versions import Versions


@pytest.fixture
def areas() -> list[np.ndarray]:
    raw = np.zeros(2 * 4096 + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return [raw[start : start + 4096], raw[start + 4096 : start + 8192]]


def test_the_one_in_force_stays_while_the_next_is_written(areas: list[np.ndarray]) -> None:
    versions = Versions(areas, "it")
    versions.write(0, {"note": 0.5, "steps": 1}, {"m": np.arange(6.0).reshape(2, 3)})
    before = areas[0].tobytes()
    versions.write(1, {"steps": 2}, {"n": np.arange(3)})
    assert areas[0].tobytes() == before
    (plain, arrays), (_, others) = versions.read(0), versions.read(1)
    assert (plain["steps"], arrays["m"].tolist()) == (1, [[0, 1, 2], [3, 4, 5]])
    assert others["n"].tolist() == [0, 1, 2]
    assert versions.note(0) == 0.5
    assert np.isnan(versions.note(1))


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_step_that_changes_nothing_repeats_the_version(areas: list[np.ndarray], version: int) -> None:
    versions = Versions(areas, "it")
    versions.write(version, {"note": 2.0, "steps": version}, {"m": np.full(4, version)})
    versions.repeat(version)
    for each in (version, version + 1):
        plain, arrays = versions.read(each)
        assert (plain["steps"], arrays["m"].tolist(), versions.note(each)) == (version, [version] * 4, 2.0)
    assert versions.words(version + 1)[:2].tolist() == [version + 2, versions.words(version)[1]]
    assert versions.used(version + 1).tobytes() == versions.used(version).tobytes()
    arrays["m"][:] = -1
    assert versions.read(version)[1]["m"].tolist() == [version] * 4


def test_what_is_too_large_leaves_the_one_in_force(areas: list[np.ndarray]) -> None:
    versions = Versions(areas, "the optimizer's state")
    versions.write(0, {}, {"m": np.ones(4)})
    with pytest.raises(JobError, match=r"the optimizer's state may take 4,032 bytes; it has grown to 8,000"):
        versions.write(1, {}, {"m": np.ones(1000)})
    assert versions.read(0)[1]["m"].tolist() == [1] * 4
    with pytest.raises(AssertionError, match="version 1 is not there"):
        versions.read(1)


@pytest.mark.parametrize("length", [-1, -(2**60), 2**60, 1 << 16])
def test_a_length_that_cannot_be_is_refused(areas: list[np.ndarray], length: int) -> None:
    versions = Versions(areas, "the state")
    versions.write(0, {}, {})
    versions.words(0)[1] = length
    with pytest.raises(JobError, match=r"the state has [\d,]+ bytes; received"):
        versions.used(0)
