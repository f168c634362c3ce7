"""Unisono as a contender: the same model, batch, optimizer and microbatch shape."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from models import CASES, optimizer

import unisono


def main(case_name: str, optimizer_name: str, steps: int, out: Path, workers: int) -> None:
    """Train `steps` steps on so many workers of each host."""
    case = CASES[case_name]
    job = unisono.Job(
        model=case.model,
        loss=F.cross_entropy,
        optimizer=partial(optimizer, optimizer_name),
        data=case.data,
        batch_size=case.batch_size,
        microbatches=2,
        steps=steps,
    )
    unisono.train(job, workers=workers, threads=1, out=out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), int((sys.argv[5:] or ["2"])[0]))
