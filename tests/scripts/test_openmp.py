"""How OpenMP's threads of a script wait while workers compute: asleep, whoever brings OpenMP."""

from __future__ import annotations

from pathlib import Path

from script_runs import run

SLEEPS = """
from pathlib import Path

import torch
import unisono

REGIONS = 500


def sleeps():
    lines = [line for each in Path("/proc/self/task").iterdir() for line in (each / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))


torch.set_num_threads(2)
values = torch.ones(100_000)
model = unisono.parallel(torch.nn.Linear(2, 2), workers=1, microbatches=2)
model(torch.ones(4, 2))
values.mul_(1)
before = sleeps()
for _ in range(REGIONS):
    values.mul_(1)
asleep = sleeps() - before > REGIONS / 2
"""


def test_threads_sleep_between_operations(tmp_path: Path) -> None:
    run(SLEEPS + "assert asleep", tmp_path)


def test_who_has_decided_how_they_wait_is_heard(tmp_path: Path) -> None:
    run(SLEEPS + "assert not asleep", tmp_path, GOMP_SPINCOUNT="infinity")
