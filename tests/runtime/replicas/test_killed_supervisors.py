"""A supervisor of replicas is killed, whatever it and they are at: the run is resumed to the same bits and records."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paths import PYTHONPATH
from waiting import until

JOB = """
from functools import partial
import jobs
def job():
    return jobs.make(jobs.Wild, optimizer=jobs.adamw, schedule=jobs.plateau, steps=20, evaluate_every=3,
                     evaluation=partial(jobs.dataset, 90, 2), metrics={"accuracy": jobs.accuracy})
"""

COMMAND = """
import sys
import cpu_as_device
from unisono import api, cli
api.request_of = cpu_as_device.request_of
sys.exit(cli.main())
"""
"""`unisono` where the CPU is a device."""


def started(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    (folder / "job.py").write_text(JOB)
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "train", "job.py", *map(str, arguments)], cwd=folder,
        env={**os.environ, "PYTHONPATH": PYTHONPATH}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> str:
    """The last line that it prints, which has the parameters' hash."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output.splitlines()[-1]


def results(out: Path) -> list[dict[str, Any]]:
    """The records, without what is another thing each time."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


@pytest.mark.thorough
@pytest.mark.parametrize("kills", [1, 5])
def test_a_killed_supervisor_of_replicas_is_resumed_to_the_same_bits(kills: int, tmp_path: Path) -> None:
    choice, checkpoints = random.Random(kills), tmp_path / "out" / "checkpoints"
    expected = ended(started(tmp_path, "--debug", "--out", "plain"))
    arguments: tuple[object, ...] = ("--out", "out", "--checkpoint-every", 1)
    for _ in range(kills):
        process = started(tmp_path, "--device", "cuda", "--workers", choice.choice((1, 2, 3)), *arguments)
        already, more = set(checkpoints.glob("step-*")), choice.choice((1, 2, 3))
        until(lambda process=process, already=already, more=more: (
            process.poll() is not None or len(set(checkpoints.glob("step-*")) - already) >= more
        ))  # fmt: skip
        process.kill()
        process.communicate()
        arguments = ("--resume", "out", "--checkpoint-every", 1)
    assert ended(started(tmp_path, "--device", "cuda", "--workers", 2, *arguments)) == expected
    assert results(tmp_path / "out") == results(tmp_path / "plain")
