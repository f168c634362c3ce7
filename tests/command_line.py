"""What the examples' tests share: the commands, run as a person runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from unisono import Run, api
from unisono.runs.jobfile import load
from waiting import limit

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def unisono(*arguments: object, status: int = 0) -> str:
    """What the command prints; it must end with this status."""
    command = [sys.executable, "-m", "unisono", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit(), env=dict(os.environ))
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout or done.stderr


def train(*arguments: object, out: Path) -> list[dict[str, float]]:
    """The records of a training run."""
    unisono("train", *arguments, "--out", out)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def briefly(file: Path, *settings: str, out: Path, **how: Any) -> Run:
    """A run of two steps, in this process unless told otherwise."""
    job = load(str(file), list(settings)).job
    return api.train(replace(job, steps=2, epochs=None), out=out, **(how or {"debug": True}))


def verified(*arguments: object) -> None:
    """A few steps give the same bytes on 1, 2 and 3 workers."""
    assert "Same bits" in unisono("verify", *arguments, "--steps", "4", "--workers", "1,2,3")


def losses(records: list[dict[str, float]]) -> list[float]:
    """The training loss of each step."""
    return [record["loss"] for record in records if "loss" in record]
