"""Layouts as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.errors import UsageError
from unisono.partition.layout import Layout

COUNTS = st.integers(1, 999)


@given(st.none() | COUNTS, COUNTS)
def test_a_layout_reads_what_it_writes(data: int | None, pipeline: int) -> None:
    layout = Layout(data, pipeline)
    assert Layout.parse(str(layout)) == layout


@given(st.none() | COUNTS, COUNTS, st.integers(1, 4096))
def test_a_layout_never_has_more_workers_than_there_are(data: int | None, pipeline: int, workers: int) -> None:
    layout = Layout(data, pipeline)
    if layout.workers > workers:
        with pytest.raises(UsageError, match=f"needs {layout.workers}, and there are {workers}"):
            layout.on(workers)
    else:
        filled = layout.on(workers)
        assert filled.pipeline == pipeline
        assert filled.workers <= workers
        assert data in (None, filled.data)


@pytest.mark.parametrize("text", ["", "2", "data", "data=", "data=x", "data=2;pipeline=2", "data=1,data=2", "tensor=2"])
def test_what_is_no_layout(text: str) -> None:
    with pytest.raises(UsageError, match="Write data=2,pipeline=2"):
        Layout.parse(text)


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_what_is_no_number_of_workers(number: float) -> None:
    with pytest.raises(UsageError, match="a whole number from 1 to 4096"):
        Layout(data=number)  # type: ignore[arg-type]
