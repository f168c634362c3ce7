"""What does not fit as often as there are workers trains as stages: shown with a limit on all processes' memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import PYTHONPATH
from waiting import limit

JOB = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
import jobs

# Four workers with the whole model hold 2.3 GB of words and their gradients at the end of a step, whichever of them
# computes when; a pipe's four hold 1.3 GB.
ROWS, WORDS = 375, 4_000_000

class Block(nn.Module):
    # keeps two arrays of rows x 1024 floats for its backward pass, and hands on rows x 16
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(16, 1024), nn.Linear(1024, 16)
    def forward(self, x):
        return x + self.narrow(torch.nn.functional.gelu(self.wide(x)))

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(WORDS, 16), *(Block() for _ in range(12)), nn.Linear(16, jobs.CLASSES))

def data():
    words = torch.arange(16 * ROWS) * 61 % WORDS
    return TensorDataset(words, words % jobs.CLASSES)

def job():
    return jobs.make(Net, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1), data=data,
                     batch_size=16 * ROWS, microbatches=16, steps=1)
"""


def trained(folder: Path, layout: str, group: Path) -> subprocess.CompletedProcess[str]:
    (folder / "big.py").write_text(JOB)
    command = (
        f"echo $$ > {group}/cgroup.procs && exec {sys.executable} -m unisono train big.py --workers 4 "
        f"--layout {layout} --out {layout}"
    )
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env={**os.environ, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True,
        timeout=limit(),
    )  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("memory_group", [2600 << 20], indirect=True)
def test_a_model_too_large_for_copies_trains_in_stages(tmp_path: Path, memory_group: Path) -> None:
    copies = trained(tmp_path, "data=4", memory_group)
    assert copies.returncode == 1, copies.stderr
    assert "was killed because memory ran out" in copies.stderr
    stages = trained(tmp_path, "pipeline=4", memory_group)
    assert stages.returncode == 0, stages.stderr
    manifest = json.loads((tmp_path / "pipeline=4" / "run.json").read_text())
    assert manifest["exit"] == "completed"
