"""Times as batch systems have them."""

from __future__ import annotations

import pytest

from unisono.errors import UsageError
from unisono.values.durations import seconds_of


@pytest.mark.parametrize(("text", "seconds"), [
    ("1s", 1), ("1m", 60), ("1h", 3600), ("1d", 86400), ("2d3h4m5s", 183845), ("1d1s", 86401), (" 90s ", 90),
])  # fmt: skip
def test_days_to_seconds_each_may_be_left_out(text: str, seconds: float) -> None:
    assert seconds_of(text, "--max-time") == seconds
    assert type(seconds_of(text, "--max-time")) is float


@pytest.mark.parametrize("text", ["", "0s", "0d0h", "90", "1s1m", "-5m", "1.5h", "1h x"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--max-time takes a time such as .*; received '{text}'"):
        seconds_of(text, "--max-time")
