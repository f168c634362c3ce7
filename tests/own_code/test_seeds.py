"""What a job file draws while it is read and makes its job is the seed's; data are the same in a resumed run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import jobs
import unisono
from unisono.errors import UsageError
from unisono.runs.jobfile import JobFile, load

DRAWS = """
import random
import numpy as np
import torch
top = random.random(), np.random.rand(), float(torch.rand(()))
from torch.utils.data import random_split
import jobs
def job(seed=0, hard=None):
    train, rest = random_split(jobs.dataset(), [64, 36])
    found = *top, random.random(), np.random.rand(), *train.indices
    train.found = found
    return jobs.make(seed=seed if hard is None else hard, data=train)
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "draws.py").write_text(DRAWS)
    return str(tmp_path / "draws.py")


def drawn(file: str, *arguments: str, **fields: int) -> tuple[float, ...]:
    random.seed()
    np.random.seed()
    torch.seed()
    found: tuple[float, ...] = load(file, arguments, fields).job.data.found
    return found


def test_what_a_file_and_its_job_draw_is_the_seeds(file: str) -> None:
    assert drawn(file) == drawn(file)
    assert drawn(file, "seed=3") == drawn(file, seed=3) == drawn(file, "seed=3", "hard=None")
    assert all(a != b for a, b in zip(drawn(file)[:5], drawn(file, "seed=3")[:5], strict=True))
    code = f"from unisono.runs.jobfile import load; print(load({file!r}).job.data.found)"
    there = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", code], env=there, capture_output=True, text=True, check=True).stdout
    assert said == f"{drawn(file)}\n", "a framework that the file imports is seeded before the file draws from it"


def test_a_resumed_run_has_the_same_data(tmp_path: Path) -> None:
    job = jobs.make(data=jobs.dataset(seed=1), steps=2)
    unisono.train(job, workers=1, out=tmp_path / "run")
    other = jobs.make(data=jobs.dataset(seed=2), steps=3)
    with pytest.raises(
        UsageError, match=r"only if its job is the same; received data: \w+ → \w+ \(.*→ this job\)\. .*--allow-change"
    ):
        unisono.train(other, workers=1, resume=tmp_path / "run")
    assert unisono.train(other, workers=1, resume=tmp_path / "run", allow_change=True).status == "completed"


def test_data_that_are_drawn_at_random_in_the_job_are_the_same_everywhere(file: str, tmp_path: Path) -> None:
    runs = [unisono.train(JobFile.of(file), workers=2, out=tmp_path / name) for name in ("first", "second")]
    assert runs[0].parameters_sha256 == runs[1].parameters_sha256
