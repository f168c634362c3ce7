"""What a run asks of this host: workers and the GPUs that they own."""

from __future__ import annotations

import pytest

from unisono.errors import UsageError
from unisono.machine.gpus import Build, Gpu
from unisono.runs import request
from unisono.runs.request import request_of
from unisono.settings import Settings

BUILD = Build("2.11.0+cu130", "13.0", "2.27.5")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with three, of which CUDA sees two."""
    here = [
        Gpu(f"GPU-{name}", "H200", "570", 1 << 37, 1 << 37, seen)
        for name, seen in zip("abc", (132, None, 132), strict=True)
    ]
    monkeypatch.setattr(request, "gpus", lambda: here)
    monkeypatch.setattr(request, "build", lambda: BUILD)


@pytest.mark.usefixtures("two_gpus")
def test_there_is_a_worker_for_each_visible_gpu() -> None:
    found = request_of(Settings(device="cuda"))
    assert (found.device, found.gpus, found.workers) == ("cuda", ("GPU-a", "GPU-c"), 2)
    assert found.cores_per_worker == 2
    assert request_of(Settings(device="cuda", workers=5, threads=3)).workers == 5
    assert request_of(Settings(device="cuda", threads=3)).cores_per_worker == 3


@pytest.mark.usefixtures("two_gpus")
def test_without_being_asked_for_gpus_are_left_alone() -> None:
    found = request_of(Settings())
    assert (found.device, found.gpus, found.cores_per_worker) == (None, (), 1)


@pytest.mark.usefixtures("two_gpus")
def test_debug_is_on_the_cpu() -> None:
    with pytest.raises(UsageError, match="debug computes in one process, on the CPU"):
        request_of(Settings(device="cuda", debug=True))
