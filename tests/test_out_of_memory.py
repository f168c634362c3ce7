"""Memory that runs out is named as such, with both ways out, whether the framework or the kernel says no."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import PYTHONPATH
from waiting import limit

JOB = """
import torch, jobs
def job(floats=0):
    def loss(outputs, targets):
        held = torch.ones(floats)
        return torch.nn.functional.cross_entropy(outputs, targets) + 0 * held[0]
    return jobs.make(loss=loss)
"""


def trained(folder: Path, floats: int, group: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A run whose loss takes so many floats, in a memory group if there is one."""
    (folder / "hog.py").write_text(JOB)
    enter = f"echo $$ > {group}/cgroup.procs && " if group else ""
    command = f"{enter}exec {sys.executable} -m unisono train hog.py floats={floats} --workers 2 --out out"
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env={**os.environ, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True,
        timeout=limit(),
    )  # fmt: skip


def assert_named(done: subprocess.CompletedProcess[str], text: str) -> None:
    assert done.returncode == 1, done.stderr
    assert text in done.stderr
    assert "Fewer workers keep the result; more microbatches need less memory each but change it." in done.stderr


def test_the_framework_says_no(tmp_path: Path) -> None:
    assert_named(trained(tmp_path, 10**14), "out of memory (worker")


@pytest.mark.parametrize("memory_group", [1 << 30], indirect=True)
def test_the_kernel_says_no(tmp_path: Path, memory_group: Path) -> None:
    assert_named(trained(tmp_path, 10**9, memory_group), "was killed because memory ran out, 3 times in a row")
