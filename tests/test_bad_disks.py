"""Real disks that are full or read-only: training goes on, what failed is said, the exit status tells."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import jobs
import unisono
from unisono.checkpoint import store
from unisono.errors import JobError, UsageError


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


def test_a_full_disk_costs_checkpoints_and_not_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with disk(tmp_path / "disk", "size=3m") as full:

        def fill(record: dict[str, Any]) -> None:
            if record["step"] == 4:
                (full / "filling").write_bytes(bytes((3 << 20) - (1000 << 10)))

        job = jobs.make(Heavy, steps=12, observers=[fill])
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
            if record["step"] == 8:
                trouble.close()

        job = jobs.make(Heavy, steps=12, observers=[observer])
        run = unisono.train(job, out=tmp_path / "run", workers=2, checkpoint_every=3)
    assert "the checkpoint of step 3 could not be written: [Errno 30] Read-only file system" in capsys.readouterr().out
    assert run.exit_status == 0
    assert store.steps(tmp_path / "run" / "checkpoints")[-1] == 12
    assert run.parameters_sha256 == plain_hash(tmp_path)


def test_a_run_folder_must_be_writable(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "ro") as still, pytest.raises(UsageError, match="must be writable"):
        unisono.train(jobs.make(), out=still / "run")
