"""What a run asks of a host fits together."""

from __future__ import annotations

import pytest

from unisono.errors import UsageError
from unisono.partition.layout import Layout
from unisono.runtime.rules.request import Request


@pytest.mark.parametrize(("layout", "recompute", "asked"), [
    (Layout(data=1, pipeline=2), False, "layout data=1,pipeline=2"),
    (Layout(), True, "recompute='blocks'"),
])  # fmt: skip
def test_a_model_on_a_device_is_whole(layout: Layout, recompute: bool, asked: str) -> None:
    with pytest.raises(UsageError, match=f"received device='cpu' and {asked}. Leave that out"):
        Request(2, 1, (0,), layout, recompute, device="cpu")
    assert Request(2, 1, (0,), layout, recompute).device is None
