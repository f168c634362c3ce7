"""Segments: areas that are disjoint, aligned, zeroed and the same for whoever maps them."""

from __future__ import annotations

import os
import resource

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unisono.memory.segment as segment_module
from unisono.errors import JobError
from unisono.memory.segment import PAGE, Segment, SegmentLayout, aligned, touch

areas = st.lists(
    st.tuples(st.sampled_from(["uint8", "float32", "int64"]), st.lists(st.integers(0, 70), max_size=3)), max_size=6
)


def made(described: list[tuple[str, list[int]]]) -> SegmentLayout:
    layout = SegmentLayout()
    for number, (dtype, shape) in enumerate(described):
        layout.add(str(number), dtype, tuple(shape))
    return layout


@given(areas)
def test_an_area_holds_what_was_put_there_and_no_other_s(described: list[tuple[str, list[int]]]) -> None:
    layout = made(described)
    segment = Segment.create(layout)
    assert os.fstat(segment.file).st_size == max(layout.size, PAGE)
    other = Segment(os.dup(segment.file), layout)
    for number, (dtype, shape) in enumerate(described):
        array = segment[str(number)]
        assert (array.dtype, array.shape) == (dtype, tuple(shape))
        assert not array.any()
        array[...] = number + 1
    for number in range(len(described)):
        array = other[str(number)]
        assert (array == number + 1).all()
        assert other[str(number)] is array
        assert array.ctypes.data == other.address_of(str(number)) or not array.size
        assert other.address_of(str(number)) % PAGE == 0
    for held in (segment, other):
        held.close()
        held.close()  # once is enough, twice no mistake
        assert held.file < 0


def test_areas_are_as_close_as_pages_allow() -> None:
    layout = made([("uint8", [PAGE]), ("uint8", [PAGE + 1]), ("int64", [])])
    assert [area.offset for area in layout.areas.values()] == [0, PAGE, 3 * PAGE]
    assert layout.size == 4 * PAGE


def test_a_closed_file_is_closed() -> None:
    segment = Segment.create(SegmentLayout())
    file = segment.file
    segment.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)
    assert not os.get_inheritable(Segment.create(SegmentLayout()).file)


@given(st.integers(0, 300), st.sampled_from([1, 8, 64]))
def test_sizes_are_rounded_up_to_the_next_multiple(size: int, alignment: int) -> None:
    assert aligned(size, alignment) == int(np.ceil(size / alignment)) * alignment


@pytest.mark.parametrize("refused", [0, -1])
def test_all_pages_of_an_array_are_touched(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    asked: list[tuple[int, ...]] = []

    class Library:
        def madvise(self, *call: int) -> int:
            asked.append(call)
            return refused

    monkeypatch.setattr(segment_module, "_LIBC", Library())
    memory = np.zeros(4 * PAGE, np.uint8)
    first = -memory.ctypes.data % PAGE
    for start, stop in ((0, 1), (8, PAGE + 16), (PAGE, 2 * PAGE)):
        asked.clear()
        touch(memory[first + start : first + stop].view(np.uint64 if stop > 1 else np.uint8))
        page = memory.ctypes.data + first + start // PAGE * PAGE
        assert asked == [(page, memory.ctypes.data + first + stop - page, 22)]  # MADV_POPULATE_READ
    touch(np.empty((0, 3)))
    assert PAGE % 4096 == 0


@pytest.mark.parametrize(("refused", "pages"), [(-1, 3), (0, 0)])
def test_pages_that_the_kernel_does_not_map_are_read(monkeypatch: pytest.MonkeyPatch, refused: int, pages: int) -> None:
    class Library:
        def madvise(self, *call: int) -> int:
            return refused

    layout = made([("float32", [2 * PAGE // 4 + 1])])
    segment = Segment.create(layout)
    monkeypatch.setattr(segment_module, "_LIBC", Library())
    assert os.fstat(segment.file).st_blocks == 0
    touch(segment["0"])
    held = os.fstat(segment.file).st_blocks * 512
    assert held >= pages * PAGE, "they may be larger"
    assert bool(held) == bool(pages)


def test_what_is_written_to_private_memory_stays_there() -> None:
    layout = SegmentLayout()
    layout.add("numbers", "int64", (3,))
    segment = Segment.create(layout)
    segment["numbers"][:] = 1
    private = segment.private()
    private["numbers"][0] = 5
    assert (segment["numbers"].tolist(), private["numbers"].tolist()) == ([1, 1, 1], [5, 1, 1])


def test_memory_that_the_machine_does_not_give_is_named() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, before[1]))
    try:
        with pytest.raises(JobError, match=r"64 KiB of shared memory.*ulimit -f"):
            Segment.create(made([("uint8", [1 << 16])]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
