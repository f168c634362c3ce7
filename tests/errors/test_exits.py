"""A job's code that leaves its process by itself is not exit status 0."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import jobs
import unisono
from test_cli import environment
from unisono.errors import JobError
from waiting import limit

LEAVE = {
    "sys.exit": ("import sys\nsys.exit(0)\n", "called sys.exit(0) (leaving.py, line 2)"),
    "quit": ("quit()\n", "called sys.exit() (leaving.py, line 1)"),
    "os._exit": ("import os\nos._exit(0)\n", "called os._exit(0) (leaving.py, line 2)"),
    "job": ("import os\ndef job():\n    os._exit(0)\n", "called os._exit(0) (leaving.py, line 3)"),
    "model": (
        "import sys, jobs\ndef job():\n    return jobs.make(model=lambda: sys.exit(0))\n",
        "called sys.exit(0) (leaving.py, line 3)",
    ),
}


@pytest.mark.few("sys.exit-train", "os._exit-train", "model-train", "os._exit-debug", "quit-partition")
@pytest.mark.parametrize("command", ["train", "debug", "partition", "verify"])
@pytest.mark.parametrize("how", LEAVE)
def test_a_file_that_leaves_fails_with_the_place_named(how: str, command: str, tmp_path: Path) -> None:
    code, text = LEAVE[how]
    (tmp_path / "leaving.py").write_text(code)
    words = ["train", "leaving.py", "--debug"] if command == "debug" else [command, "leaving.py"]
    done = subprocess.run(
        [sys.executable, "-m", "unisono", *words],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=limit(),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert f"the job's code {text}" in done.stderr + done.stdout


def test_a_loss_that_leaves_in_this_process_fails(tmp_path: Path) -> None:
    job = jobs.make(loss=lambda outputs, targets: sys.exit(0))
    with pytest.raises(JobError, match=r"called sys.exit\(0\) \(test_exits.py, line \d+\)"):
        unisono.train(job, debug=True, out=tmp_path / "out")


def test_what_a_job_forks_may_end_with_0(tmp_path: Path) -> None:
    code = "import os\nchild = os.fork()\nif not child:\n    os._exit(0)\nassert os.waitpid(child, 0)[1] == 0\n"
    (tmp_path / "forking.py").write_text(f"{code}import jobs\njob = jobs.make(steps=1)\n")
    done = subprocess.run(
        [sys.executable, "-m", "unisono", "train", "forking.py", "--debug"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=limit(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_an_answer_that_leaves_fails(tmp_path: Path) -> None:
    code = "import os, jobs\ndef infer(model, word):\n    os._exit(0)\njob = jobs.make(infer=infer, steps=1)\n"
    (tmp_path / "leaving.py").write_text(code)
    for words in (["train", "leaving.py", "--debug", "--out", "out"], ["predict", "leaving.py", "out", "7"]):
        done = subprocess.run(
            [sys.executable, "-m", "unisono", *words],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=limit(),
        )  # fmt: skip
    assert done.returncode == 1
    assert "the job's code called os._exit(0) (leaving.py, line 3)" in done.stderr


DEAF = "import os, signal, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nos.execv(sys.executable, sys.argv[1:])\n"


def test_who_is_started_deaf_to_its_children_hears_how_they_end(tmp_path: Path) -> None:
    code = "import os, jobs\ndef loss(outputs, targets):\n    os.abort()\njob = jobs.make(loss=loss, steps=1)\n"
    (tmp_path / "aborts.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", DEAF, sys.executable, "-m", "unisono", "train", "aborts.py", "--workers", "2"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=limit(),
    )  # fmt: skip
    assert done.returncode == 1
    assert "was ended by SIGABRT, 3 times in a row at the same place" in done.stderr
