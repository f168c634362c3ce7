"""Real disks that are full or read-only: training goes on, what failed is said, the exit status tells."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import jobs
import unisono
from paths import PYTHONPATH
from unisono.checkpoint import store
from unisono.checkpoint.files import load
from unisono.checkpoint.parameters import sha256_of
from unisono.errors import JobError, UsageError
from unisono.observe.metrics import read_metrics
from unisono.observe.run_folder import read_run
from waiting import limit, until


class Heavy(jobs.Mlp):
    """Half a megabyte more, which the run folder has to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(1 << 17))


@contextmanager
def disk(path: Path, options: str) -> Iterator[Path]:
    """A small file system at a path."""
    path.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "unisono-test", path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"file systems can't be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def plain_hash(tmp_path: Path) -> str:
    return unisono.train(jobs.make(Heavy, steps=12), out=tmp_path / "plain", debug=True).parameters_sha256


def gated(there: Path, calls: int = 32) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A loss that goes on, after so many microbatches, once a file is there: an observer has done its part then."""
    done = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        done.append(1)
        if len(done) > calls:
            until(there.exists, f"{there} is there")
        return torch.nn.functional.cross_entropy(outputs, targets)

    return loss


def fill(disk: Path) -> None:
    with (disk / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


def take_inodes(disk: Path) -> None:
    (disk / "filling").mkdir()
    with suppress(OSError):
        for number in itertools.count():
            (disk / "filling" / str(number)).touch()


def lock(disk: Path) -> None:
    for options in (["--bind", disk, disk], ["-o", "remount,bind,ro", disk]):
        subprocess.run(["mount", *options], check=True)


def gone(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def free(disk: Path) -> None:
    shutil.rmtree(disk / "filling", ignore_errors=True)
    (disk / "filling").unlink(missing_ok=True)


def unlock(disk: Path) -> None:
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_costs_checkpoints_and_not_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with disk(tmp_path / "disk", "size=3m") as full:

        def fill(record: dict[str, Any]) -> None:
            if record["step"] == 4:
                filling = full / "filling"
                try:
                    filling.write_bytes(bytes((3 << 20) - (1000 << 10)))
                except OSError:  # a checkpoint that is being written has the room; run.json needs a little
                    os.truncate(filling, filling.stat().st_size - (64 << 10))
                (tmp_path / "done").touch()

        job = jobs.make(Heavy, steps=12, loss=gated(tmp_path / "done"), observers=[fill])
        with pytest.raises(JobError, match="could not be saved"):
            unisono.train(job, out=full / "run", workers=2, checkpoint_every=3, keep=1)
        shown = capsys.readouterr().out
        assert "could not be written" in shown
        assert "No space left on device" in shown
        manifest = json.loads((full / "run" / "run.json").read_text())
        assert manifest["steps_done"] == 12
        assert manifest["parameters_sha256"] == plain_hash(tmp_path)
        (full / "filling").unlink()
        assert unisono.train(jobs.make(Heavy, steps=12), resume=full / "run").exit_status == 0


def test_a_disk_that_is_read_only_for_a_while_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as trouble:

        def observer(record: dict[str, Any]) -> None:
            if record["step"] == 1:
                trouble.enter_context(disk(tmp_path / "run" / "checkpoints", "ro"))
                (tmp_path / "locked").touch()
            if record["step"] == 8:
                trouble.close()

        job = jobs.make(Heavy, steps=12, loss=gated(tmp_path / "locked", 8), observers=[observer])
        run = unisono.train(job, out=tmp_path / "run", workers=1, checkpoint_every=3)
    assert "the checkpoint of step 3 could not be written: [Errno 30] Read-only file system" in capsys.readouterr().out
    assert run.exit_status == 0
    assert store.steps(tmp_path / "run" / "checkpoints")[-1] == 12
    assert run.parameters_sha256 == plain_hash(tmp_path)


def test_a_run_folder_must_be_writable(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "ro") as still, pytest.raises(UsageError, match="must be writable"):
        unisono.train(jobs.make(), out=still / "run")


@pytest.mark.few("full")
@pytest.mark.parametrize(
    ("fault", "undo"), [(fill, free), (take_inodes, free), (lock, unlock)], ids=["full", "no-inodes", "read-only"]
)
def test_a_disk_that_goes_bad_costs_what_comes_then_and_nothing_before(
    tmp_path: Path, fault: Callable[[Path], None], undo: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with disk(tmp_path / "disk", "size=1m,nr_inodes=100") as bad:
        run = bad / "run"

        def observer(record: dict[str, Any]) -> None:
            if record["step"] == 3:
                until(lambda: store.steps(run / "checkpoints") == [3], "the checkpoint is on disk")
                fault(bad)
                (tmp_path / "done").touch()

        job = jobs.make(steps=12, loss=gated(tmp_path / "done"), observers=[observer])
        with pytest.raises(JobError, match=r"(?s)could not be saved.*the newest sound checkpoint is that after step 3"):
            unisono.train(job, out=run, workers=1, checkpoint_every=3)
        shown = capsys.readouterr().out
        assert "the checkpoint of step 6 could not be written" in shown
        assert shown.count("run.json could not be written") == 1
        undo(bad)
        resumed = unisono.train(jobs.make(steps=12), resume=run)
        plain = unisono.train(jobs.make(steps=12), out=tmp_path / "plain", debug=True)
        assert resumed.parameters_sha256 == plain.parameters_sha256
        assert [record["step"] for record in resumed.history] == list(range(1, 13))


def test_a_disk_that_is_full_at_the_start_and_not_at_the_end(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=1m") as bad:
        fill(bad)

        def observer(record: dict[str, Any]) -> None:
            if record["step"] == 3:
                free(bad)
                (tmp_path / "done").touch()

        job = jobs.make(steps=12, loss=gated(tmp_path / "done"), observers=[observer])
        run = unisono.train(job, out=bad / "run", workers=1)
        assert (run.exit_status, run.manifest["steps_done"]) == (0, 12)
        assert [record["step"] for record in run.history] == list(range(1, 13))


def test_a_run_folder_that_is_removed_is_made_anew_with_the_final_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def observer(record: dict[str, Any]) -> None:
        if record["step"] == 3:
            until(lambda: gone(tmp_path / "run"), "the folder is gone, whatever was just written there")
            (tmp_path / "done").touch()

    job = jobs.make(steps=12, loss=gated(tmp_path / "done"), observers=[observer])
    run = unisono.train(job, out=tmp_path / "run", workers=1)
    assert (run.exit_status, run.manifest["steps_done"], run.history[-1]["step"]) == (0, 12, 12)
    assert sha256_of(load(tmp_path / "run" / "parameters.safetensors")) == run.parameters_sha256
    assert "run has been removed: it is made anew" in capsys.readouterr().out


def test_a_disk_that_does_not_answer_holds_up_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    silent = tmp_path / "run" / "logs" / "worker-0.log"
    os.mkfifo(silent)  # whoever opens it to write waits for a reader

    def loud(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        print("hello")
        return torch.nn.functional.cross_entropy(outputs, targets)

    run = unisono.train(jobs.make(steps=12, loss=loud), out=tmp_path / "run", workers=1, checkpoint_every=3)
    assert (run.exit_status, run.manifest["steps_done"]) == (0, 12)
    saved = store.read(store.at(tmp_path / "run" / "checkpoints", 12))
    assert sha256_of(saved.parameters) == run.parameters_sha256
    assert "dropped (no answer in 10 s)" in capsys.readouterr().out
    os.close(os.open(silent, os.O_RDONLY | os.O_NONBLOCK))
    until(lambda: read_run(tmp_path / "run")["exit"] == "completed", "what waited is written")


def train_where(tmp_path: Path, setting: str) -> None:
    """Train by the command, after a shell has made a setting."""
    (tmp_path / "job.py").write_text("import jobs\ndef job():\n    return jobs.make(steps=4)\n")
    command = f"{setting} && exec {sys.executable} -m unisono train job.py --workers 2 --out out --checkpoint-every 2"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command], cwd=tmp_path, env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True, text=True, timeout=limit(),
    )  # fmt: skip
    if "unshare: " in done.stderr or "mount: " in done.stderr:
        pytest.skip(f"file systems can't be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "out")["steps_done"] == 4
    assert len(read_metrics(tmp_path / "out" / "metrics.jsonl")) == 4
    assert "could not" not in done.stdout + done.stderr


@pytest.mark.few("no-shm")
@pytest.mark.parametrize(
    "setting",
    [
        "umount --lazy /dev/shm",
        "mount -t tmpfs -o ro none /dev/shm",
        "mount -t tmpfs -o size=4k,nr_inodes=1 none /dev/shm",
        "unset TMPDIR && mount --bind $PWD /mnt && cd /mnt && for place in /tmp /var/tmp; do "
        "mount -t tmpfs -o ro none $place; done",
        "ulimit -n 64",
    ],
    ids=["no-shm", "shm-read-only", "shm-full", "tmp-read-only", "64-descriptors"],
)
def test_places_and_tables_that_a_run_does_not_need(tmp_path: Path, setting: str) -> None:
    train_where(tmp_path, setting)


MANY = """
import os, resource, sys
import jobs
import unisono

def wrong(outputs, targets):
    return 1 / 0

resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
try:
    unisono.train(jobs.make(loss=wrong), out="out", workers=1)
except unisono.JobError as error:
    print(error)
"""


def test_a_process_with_more_than_a_thousand_files_open(tmp_path: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096:
        pytest.skip("this user may not open 4096 files")
    done = subprocess.run(
        [sys.executable, "-c", MANY], cwd=tmp_path, env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True, text=True, timeout=limit(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ZeroDivisionError" in done.stdout
    assert "a checkpoint after step 0 is kept" in done.stdout
