"""What processes see of GPUs by their environment: a worker its own, the others none."""

from __future__ import annotations

import os
from collections import defaultdict
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

import faults
import jobs
from unisono.runtime.supervisor.outcome import raise_failure


def noted(folder: Path) -> None:
    """Note by whom this is called, and what that sees."""
    role = Path("/proc/self/comm").read_text().strip()
    (folder / f"{role}-{os.getpid()}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])


def loss(folder: Path, outputs: Tensor, targets: Tensor) -> Tensor:
    noted(folder)
    return F.cross_entropy(outputs, targets)


class Noting(TensorDataset):
    """Samples that note who reads them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(*jobs.dataset().tensors)
        self.folder = folder

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        noted(self.folder)
        return super().__getitem__(index)


def test_a_worker_sees_its_own_gpu_and_the_other_processes_none(tmp_path: Path) -> None:
    job = jobs.make(loss=partial(loss, tmp_path), data=partial(Noting, tmp_path))
    script = faults.Script(tmp_path, (faults.Fault("update", 2, 0),))
    outcome, _, _ = faults.run(job, 3, device="cpu", gpus=("GPU-a", "GPU-b"), phase=script)
    raise_failure(outcome)
    assert script.struck
    seen: dict[str, list[str]] = defaultdict(list)
    for path in tmp_path.glob("unisono-*"):
        seen[path.name.split("-")[1]].append(path.read_text())
    assert sorted(seen["worker"]) in (["GPU-a", "GPU-a", "GPU-a", "GPU-b"], ["GPU-a", "GPU-a", "GPU-b", "GPU-b"])
    assert set(seen["loader"]) == {""}
