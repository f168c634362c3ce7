"""A run on GPUs from its settings to its folder: the GPU is a stand-in, as are the programs that tell of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch.utils import backend_registration

import jobs
import unisono
from frameworks import away
from unisono.errors import UsageError
from unisono.frameworks.pytorch import devices
from unisono.machine.gpus import Build, Gpu
from unisono.runs import request

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch has no devices that are written in Python",
)


def stood_in() -> torch.nn.Module:
    """A model, where "cuda" is another device."""

    def begun(name: str) -> torch.device:
        assert name == "cuda"
        return torch.device("away")

    away.there(unstarted)
    devices.begun = begun
    return jobs.Wild()


unstarted = jobs.make()


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with one."""
    monkeypatch.setattr(request, "gpus", lambda: [Gpu("GPU-a", "H200", "570", 1 << 37, 1 << 37, 132)])
    monkeypatch.setattr(request, "build", lambda: Build("2.11.0+cu130", "13.0", "2.27.5"))


def test_workers_on_gpus_give_the_bits_of_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {"optimizer": jobs.adamw, "clip_norm": 0.5, "batch_size": 30}
    expected = unisono.train(jobs.make(jobs.Wild, **changes), out=tmp_path / "cpu", debug=True)
    run = unisono.train(jobs.make(stood_in, **changes), device="cuda", workers=2, out=tmp_path / "gpu")
    assert run.parameters_sha256 == expected.parameters_sha256
    assert run.manifest["fingerprint"]["device"] == "away"
    assert run.manifest["world"]["workers"] == 2
    assert "2 workers share 1 GPU" in capfd.readouterr().out


def test_a_model_that_is_cut_stays_on_cpus(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a worker that owns a device has the whole model there"):
        unisono.train(unstarted, device="cuda", layout="pipeline=2", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
