"""This host as it is."""

from __future__ import annotations

import os

import pytest

from unisono.machine.devices import inspect, quota_cores


def test_inspect_agrees_with_the_system() -> None:
    found = inspect()
    assert set(found.cores) <= os.sched_getaffinity(0)
    assert found.memory_bytes > 1 << 28
    assert found.cpu


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("50000 100000", 0.5), ("400000 100000", 4)])
def test_quota(text: str, cores: float | None) -> None:
    assert quota_cores(text) == cores
