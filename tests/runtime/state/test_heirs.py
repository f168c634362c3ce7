"""Heirs in shared memory."""

from __future__ import annotations

import pytest

from products import made
from recorder import Recorder


def test_an_heir_s_name_is_read_before_what_it_inherits(monkeypatch: pytest.MonkeyPatch) -> None:
    heirs = made().heirs
    table = heirs._view = Recorder(heirs._view, "unisono.runtime.state.heirs", monkeypatch)  # type: ignore[assignment]
    heirs.name(3, 5)
    assert heirs.of(3) == 5
    assert table.seen == ["fence", (3, 6), 3, "fence"]
