"""What several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def nothing_left_running() -> object:
    """After each test no process that it started is alive."""
    import psutil

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive, [child.cmdline() for child in alive]


@pytest.fixture
def memory_group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A memory group of so many bytes."""
    root = Path("/sys/fs/cgroup")
    parent, limit = (root / "memory", "memory.limit_in_bytes") if (root / "memory").exists() else (root, "memory.max")
    path = parent / f"unisono-test-{os.getpid()}"
    try:
        path.mkdir()
        (path / limit).write_text(str(request.param))
    except OSError as error:
        with suppress(OSError):
            path.rmdir()
        pytest.skip(f"memory groups can't be made here: {error}")
    yield path
    path.rmdir()
