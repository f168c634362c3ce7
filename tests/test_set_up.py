"""A job that hangs while it is made ready: it is said where, and an interrupt is answered at once, in every phase."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from paths import PYTHONPATH
from waiting import limit, until

JOB = """
import threading, sys
from pathlib import Path
import jobs

def hang(here):
    if here == Path(__file__).with_suffix(".where").read_text():
        Path(__file__).with_suffix(".hangs").touch()
        threading.Event().wait()  # HERE

hang("file")

def model():
    hang("model")
    return jobs.Mlp()

def data():
    hang("data")
    return jobs.dataset()

def job():
    hang("job")
    return jobs.make(model, data=data)
"""


def started(folder: Path, where: str, say_seconds: str = "10") -> subprocess.Popen[str]:
    """A run that hangs there, once it does."""
    (folder / "slow.py").write_text(JOB)
    (folder / "slow.where").write_text(where)
    command = (
        f"import unisono.runtime.supervisor.answers as a; a.SAY_SECONDS = {say_seconds}\n"
        "import sys; sys.argv = ['unisono', 'train', 'slow.py', '--workers', '2', '--out', 'out']\n"
        "from unisono.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command], cwd=folder, env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until(lambda: process.poll() is not None or (folder / "slow.hangs").exists(), "it hangs")
    return process


def interrupted(process: subprocess.Popen[str]) -> str:
    """Interrupt it; returns what it has printed. Nothing is left running."""
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 130, output
    psutil.wait_procs(below, limit())
    assert not [child for child in below if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert "Traceback" not in output
    return output


@pytest.mark.parametrize("where", ["file", "job", "model", "data"])
def test_an_interrupt_is_answered_where_the_job_is_made(tmp_path: Path, where: str) -> None:
    interrupted(started(tmp_path, where))
    if where in ("model", "data"):
        manifest = json.loads((tmp_path / "out" / "run.json").read_text())
        assert (manifest["exit"], manifest["signal"], manifest["steps_done"]) == ("interrupted", 2, 0)


@pytest.mark.few("model-model()")
@pytest.mark.parametrize(
    ("where", "text"), [("file", "the job's file"), ("job", "job()"), ("model", "model()"), ("data", "data()")],
)  # fmt: skip
def test_where_it_hangs_is_said_again_and_again(tmp_path: Path, where: str, text: str) -> None:
    process = started(tmp_path, where, say_seconds="0.01")
    line = 1 + (tmp_path / "slow.py").read_text().split("# HERE")[0].count("\n")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    for _ in range(2):
        assert next(shown for shown in lines if f"still in {text}, " in shown and f"slow.py:{line}" in shown)
    interrupted(process)


def test_an_interrupt_is_answered_while_imports_last(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(JOB)
    (tmp_path / "slow.where").write_text("file")
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "unisono", "train", "slow.py"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PYTHONPATH}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    next(line for line in iter(process.stderr.readline, "") if line.endswith(" click.core\n"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=limit())
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
