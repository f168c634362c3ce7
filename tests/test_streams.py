"""Output that nobody takes: a run ends as it would, is saved, and its exit status tells so."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paths import PYTHONPATH
from waiting import limit

JOB = """\
import torch
import jobs
import unisono

print("損失 \\udc80")

def job():
    def loss(outputs, targets):
        print("損失 ×", "x" * 100_000)
        return torch.nn.functional.cross_entropy(outputs, targets)
    return jobs.make(loss=loss, steps=4)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "loud.py"
    path.write_text(JOB)
    return path


def started(file: Path, *, redirect: str = "", **options: Any) -> subprocess.Popen[str]:
    command = f"exec {sys.executable} -m unisono train {file} --workers 1 --out {file.parent / 'out'} {redirect}"
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "COLUMNS": "200", **options.pop("env", {})}
    return subprocess.Popen(["sh", "-c", command], cwd=file.parent, env=environment, text=True, **options)


def check(process: subprocess.Popen[str], folder: Path) -> None:
    with process:
        assert process.wait(limit()) == 0
    manifest = json.loads((folder / "out" / "run.json").read_text())
    assert (manifest["exit"], manifest["steps_done"]) == ("completed", 4)
    assert len((folder / "out" / "metrics.jsonl").read_text().splitlines()) == 4
    assert "損失" in (folder / "out" / "logs" / "worker-0.log").read_text()


def test_a_pipe_that_is_closed_after_a_line(file: Path) -> None:
    process = started(file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    check(process, file.parent)
    assert said.count("output could not be shown: [Errno 32] Broken pipe") == 2, "of training, of the summary"


@pytest.mark.few(">&- 2>&-")
@pytest.mark.parametrize("redirect", ["> /dev/full", "> /dev/full 2>&1", ">&-", ">&- 2>&-", "0<&- >&- 2>&-"])
def test_streams_that_are_full_or_closed(file: Path, redirect: str) -> None:
    check(started(file, redirect=redirect), file.parent)
    assert json.loads((file.parent / "out" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1


@pytest.mark.few("C")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "C"])
def test_letters_that_the_encoding_lacks(file: Path, encoding: str) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} if encoding == "C" else {}
    encoding = "ascii" if encoding == "C" else encoding
    environment = {"PYTHONIOENCODING": encoding, **locale}
    process = started(file, stdout=subprocess.PIPE, encoding=encoding, env=environment)
    assert process.stdout
    shown = process.stdout.read()
    check(process, file.parent)
    assert r"\u640d\u5931" in shown
    assert "completed after 4 steps" in shown


def test_a_terminal_that_is_not_read(file: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        check(started(file, stdout=theirs, stderr=theirs), file.parent)
    finally:
        os.close(theirs)
        os.close(ours)
