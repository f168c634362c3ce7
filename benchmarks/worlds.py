"""One job under DDP and under Unisono, on 1, 2 and 4 workers: losses and hashes (`make bench-worlds`).

python benchmarks/worlds.py

The job is examples/digits_torch.py: a small CNN with BatchNorm and dropout. DDP (`peers/worlds_ddp.py`) trains each
number of processes twice. Unisono's workers are killed meanwhile with SIGKILL. Writes results/worlds.json, and from it
the picture at the top of README, docs/worlds.png (`worlds_picture.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch
import worlds_picture

import unisono
from frameworks import cpu

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "examples"))

from digits_torch import job  # noqa: E402

WORKERS = (1, 2, 4)
EPOCHS = 15
KILLED_AFTER = {1: (110,), 2: (40, 90), 4: (20, 65, 140)}
"""Workers → after how many recorded steps one of them is killed."""


def ddp(processes: int, batch_size: int, folder: Path) -> dict[str, Any]:
    """Train with DDP, twice."""
    found = []
    for again in range(2):
        file = folder / f"ddp-{processes}-{again}.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        script = [str(HERE / "peers" / "worlds_ddp.py"), str(file), str(batch_size), str(EPOCHS)]
        subprocess.run([*launcher, *script], check=True)
        found.append(json.loads(file.read_text()))
    return {**found[0], "sha256_again": found[1]["sha256"]}


def losses(run: unisono.Run) -> list[float]:
    """Of each step so far."""
    return [record["loss"] for record in run.history if "loss" in record]


def killed(run: unisono.Run, after: int) -> int:
    """Kill one of the run's workers after so many steps; how many there were."""
    while (steps := len(losses(run))) < after and run.status == "running":
        time.sleep(0.002)
    processes = psutil.Process().children(recursive=True)
    next(process for process in processes if process.name() == "unisono-worker").kill()
    return steps


def with_unisono(workers: int, folder: Path) -> dict[str, Any]:
    """Train with Unisono, and kill workers meanwhile."""
    same = replace(job(epochs=EPOCHS), drop_last=True, evaluation=None)
    run = unisono.start(same, workers=workers, out=folder / f"unisono-{workers}")
    kills = [killed(run, after) for after in KILLED_AFTER[workers]]
    run.wait()
    return {"losses": losses(run), "sha256": run.parameters_sha256, "kills": kills}


def main() -> None:
    """Train, write what came of it, draw it."""
    batch_size = job().batch_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = {
            "date": f"{date.today()}", "torch": torch.__version__, "cpu": cpu(), "batch_size": batch_size,
            "epochs": EPOCHS, "ddp": {str(n): ddp(n, batch_size, folder) for n in WORKERS},
            "unisono": {str(n): with_unisono(n, folder) for n in WORKERS},
        }  # fmt: skip
    worlds_picture.RESULTS.write_text(json.dumps(measured, indent=1) + "\n")
    worlds_picture.main()


if __name__ == "__main__":
    main()
