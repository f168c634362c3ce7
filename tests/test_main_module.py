"""Functions and classes of a script or notebook (`__main__`) travel to the workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from waiting import limit

SCRIPT = """
import torch
from torch import nn
import unisono

class Mine(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)

data = [(torch.full((3,), float(i)), i % 2) for i in range(16)]
seen = []
job = unisono.Job(model=Mine, loss=loss, optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
                  data=data, batch_size=8, steps=3, observers=[seen.append])
run = unisono.train(job, workers=2, out="out")
print(run.status, len(seen), type(run.model("final")).__name__)
"""


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the working folder shadows a library')")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "sub/script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=limit()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "completed 3 Mine"
