"""A disk that hangs when the state is saved, or while a job's observers are read: it is said, and can be ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paths import PYTHONPATH
from waiting import limit, until

HANGS = """
import sys, threading
import jobs, unisono
from unisono.checkpoint import store
from unisono.observe import outlet

outlet.SLOW_SECONDS = 0.01
write = store.write

def hangs(folder, standing, *rest):
    if standing.step == 4:
        threading.Event().wait()
    return write(folder, standing, *rest)

store.write = hangs
unisono.train(jobs.make(steps=4), out="out", workers=1, checkpoint_every=2, debug=sys.argv[1:] == ["debug"])
"""


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Start]:
    """Starts a script; what hangs when a test has failed is ended."""
    processes: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        (tmp_path / "script.py").write_text(code)
        processes.append(subprocess.Popen(
            [sys.executable, "script.py", *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": PYTHONPATH},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ))  # fmt: skip
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("debug", [(), ("debug",)])
def test_a_disk_that_does_not_take_the_final_state_is_said_again_and_again(
    tmp_path: Path, debug: tuple[str, ...], started: Start
) -> None:
    process = started(HANGS, *debug)
    assert process.stdout is not None
    said = re.compile(
        r"the disk has not taken the state after step 4 for \d+ s \(the newest checkpoint is that of step 2"
    )
    lines = iter(process.stdout.readline, "")
    for _ in range(2):
        assert any(said.match(line) for line in lines)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=limit())
    assert process.returncode in (130, 143)
    assert errors == ("unisono: ended at once, without saving the state; the newest checkpoint is that of step 2\n")
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (manifest["exit"], manifest["signal"]) == ("interrupted", process.returncode - 128)


OBSERVED = """
import threading
from pathlib import Path
import jobs

if Path(__file__).with_suffix(".read").exists():
    threading.Event().wait()  # HERE
Path(__file__).with_suffix(".read").touch()

def job():
    return jobs.make(observers=[print])
"""

COMMAND = """
import sys
import unisono.observe.outlet
unisono.observe.outlet.SLOW_SECONDS = 0.01
sys.argv = ["unisono", "train", "watched.py", "--workers", "1", "--out", "out"]
from unisono.cli import main
main()
"""


def test_observers_whose_file_hangs_when_it_is_read_again(tmp_path: Path, started: Start) -> None:
    (tmp_path / "watched.py").write_text(OBSERVED)
    process = started(COMMAND)
    assert process.stdout is not None
    place = f"watched.py:{1 + OBSERVED.split('# HERE')[0].count(chr(10))}"
    lines = iter(process.stdout.readline, "")
    for _ in range(2):
        assert any("still reading the job's observers, " in line and place in line for line in lines)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=limit())
    others = [line for line in errors.splitlines() if "the terminal: no answer for 0 s" not in line]
    assert (process.returncode, others) == (130, []), output
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (manifest["exit"], manifest["signal"], manifest["steps_done"]) == ("interrupted", 2, 0)


STUCK = """
import threading
from pathlib import Path
import jobs

def model():
    Path("hangs").touch()
    threading.Event().wait()

def job():
    return jobs.make(model)
"""


def test_one_interrupt_ends_a_model_that_hangs_in_one_process(tmp_path: Path, started: Start) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    process = started(COMMAND.replace('"watched.py"', '"stuck.py", "--debug"'))
    until(lambda: process.poll() is not None or (tmp_path / "hangs").exists(), "it hangs")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=limit())
    assert (process.returncode, errors) == (130, "")
