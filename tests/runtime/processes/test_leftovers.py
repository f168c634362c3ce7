"""A folder that processes share goes with the last of them, and what is left nevertheless with the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import jobs
import unisono
from unisono.checkpoint import store
from unisono.runtime.processes.leftovers import COMPARE, sweep_run, sweep_temporary, temporary_folder
from waiting import until

FAMILY = """
import os, threading
from unisono.runtime.processes.leftovers import shared_folder
folder = shared_folder("unisono-shared-")
child = os.fork()
if child:
    print(folder, child, flush=True)
else:
    (folder / "what was compiled").touch()
threading.Event().wait()
"""


def test_a_shared_folder_goes_with_the_last_of_its_processes(tmp_path: Path) -> None:
    command, environment = [sys.executable, "-c", FAMILY], {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout is not None
        name, child = first.stdout.readline().split()
        folder = Path(name)
        assert folder.parent.parent == tmp_path
        until(lambda: list(folder.iterdir()), "the child has written")
        first.kill()
    assert list(folder.iterdir()), "the child lives"
    os.kill(int(child), signal.SIGKILL)
    until(lambda: not list(tmp_path.iterdir()), "the folder has gone")


HOLDER = """
import sys, threading
from unisono.runtime.processes.leftovers import COMPILED, temporary_folder
with temporary_folder(COMPILED) as folder:
    (folder / "compiled").touch()
    print(folder, flush=True)
    threading.Event().wait()
"""


@contextmanager
def process(code: str, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """One that is killed at the end of the block, and the line that it has printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def test_what_a_killed_owner_leaves_is_swept_and_a_living_ones_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "unisono-compiled-of-somebody-else").mkdir()
    with process(HOLDER) as (owner, name):
        sweep_temporary()
        assert Path(name, "compiled").exists(), "its owner lives"
        owner.kill()
        owner.wait()
        sweep_temporary()
        assert not Path(name).parent.exists()
    with temporary_folder(COMPARE) as folder:
        sweep_temporary()
        assert folder.is_dir(), "this process lives"
    assert [path.name for path in tmp_path.iterdir()] == ["unisono-compiled-of-somebody-else"], "it has no lock"


def leave(folder: Path) -> list[Path]:
    """What a run leaves that is killed while it writes."""
    unfinished = folder / "checkpoints" / ".step-00000007.tmp"
    unfinished.mkdir(parents=True)
    left = [unfinished / "parameters.safetensors", folder / "control.sock", folder / "run.json.tmp"]
    for path in left:
        path.write_text("half")
    return left


RUN = """
import fcntl, sys, threading
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
threading.Event().wait()
"""


def test_a_run_folder_is_swept_once_nobody_holds_it(tmp_path: Path) -> None:
    left = leave(tmp_path)
    with process(RUN, tmp_path / "metrics.jsonl") as (run, _):
        sweep_run(tmp_path)
        assert all(path.exists() for path in left), "its run lives"
        run.kill()
        run.wait()
        sweep_run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "metrics.jsonl"]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_checkpoint_that_was_put_aside_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".step-00000003.old").mkdir()
    (tmp_path / ".step-00000003.old" / "state.json").touch()
    (tmp_path / ".step-00000004.old").mkdir()
    (tmp_path / "step-00000004").mkdir()
    store.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
    assert (tmp_path / "step-00000003" / "state.json").exists()


def test_a_resumed_run_sweeps(tmp_path: Path) -> None:
    out = tmp_path / "out"
    unisono.train(jobs.make(steps=1), out=out, debug=True)
    left = leave(out)
    unisono.train(jobs.make(steps=2), resume=out, debug=True)
    assert not any(path.exists() for path in left)
