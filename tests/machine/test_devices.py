"""This host as it is, and cgroups as they may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unisono.machine import devices


def test_what_is_found_agrees_with_the_system() -> None:
    assert set(devices.usable_cores()) <= os.sched_getaffinity(0)
    assert devices.usable_memory() > 1 << 28
    assert devices.cpu_name()
    assert 0 < devices.free_memory() <= devices.usable_memory()
    assert devices.tasks_left() > 0


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("50000 100000", 0.5), ("400000 100000", 4)])
def test_quota(text: str, cores: float | None) -> None:
    assert devices.quota_cores(text) == cores


@pytest.mark.parametrize("files", [
    {"cpu.max": "max 100000", "job/cpu.max": "100000 100000", "job/memory.max": "1048576", "memory.max": "max",
     "job/memory.current": "524288", "job/memory.stat": "inactive_file 4096", "job/pids.max": "20",
     "job/pids.current": "7"},
    {"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "100000", "cpu/cpu.cfs_quota_us": "-1",
     "memory/job/memory.limit_in_bytes": "1048576", "memory/job/memory.usage_in_bytes": "524288",
     "memory/job/memory.stat": "inactive_file 4096", "pids/job/pids.max": "20", "pids/job/pids.current": "7"},
], ids=["version 2", "version 1"])  # fmt: skip
def test_limits_of_the_group_and_of_those_above(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    groups = "0::/job" if "cpu.max" in files else "3:pids:/job\n2:memory:/job\n1:cpu,cpuacct:/job\n0::/"
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    monkeypatch.setattr(devices, "_groups", lambda: groups)
    assert devices.granted_cores() == 1
    assert len(devices.usable_cores()) == 1
    assert (devices.usable_memory(), devices.free_memory()) == (1 << 20, (1 << 19) + 4096)
    assert devices.tasks_left() == 13
