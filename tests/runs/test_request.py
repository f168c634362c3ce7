"""What a run asks of this host: workers and the GPUs that they own."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import jobs
import unisono
from unisono import api
from unisono.errors import UsageError
from unisono.machine.gpus import Build, Gpu
from unisono.runs import request
from unisono.runs.request import request_of
from unisono.runtime.rules.request import Request
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


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("cut", [{"layout": "data=1,pipeline=2"}, {"layout": "pipeline=2", "recompute": "blocks"}])
def test_a_model_that_is_cut_is_refused_on_gpus(cut: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"a worker that owns a device has the whole model there; .* device='cuda'"):
        request_of(Settings(device="cuda", **cut))


def test_a_run_says_who_else_computes_on_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nprint('GPU-b, 4711, 2048\\nGPU-a, 4712, 1024')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def with_a_gpu(settings: Settings, **more: Any) -> Request:
        return replace(request_of(settings, **more), device="cpu", gpus=("GPU-a",))

    monkeypatch.setattr(api, "request_of", with_a_gpu)
    unisono.train(jobs.make(steps=1), workers=1, out=tmp_path / "run", live=False)
    assert "process 4712 computes on a GPU of this run (1.0 GiB): steps take longer" in capsys.readouterr().out
