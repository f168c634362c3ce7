"""Unisono as a contender: the same model, batch and optimizer.

python benchmarks/unisono_run.py CASE OPTIMIZER STEPS RUN_DIR [--workers 2] [--microbatches 2]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from models import case_named, optimizer

import unisono


def main() -> None:
    """Train on so many workers of each host; without --microbatches the job leaves them to their default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case")
    parser.add_argument("optimizer")
    parser.add_argument("steps", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--microbatches", type=int)
    arguments = parser.parse_args()
    case = case_named(arguments.case)
    job = unisono.Job(
        model=case.model,
        loss=F.cross_entropy,
        optimizer=partial(optimizer, arguments.optimizer),
        data=case.data,
        batch_size=case.batch_size,
        microbatches=arguments.microbatches,
        steps=arguments.steps,
    )
    unisono.train(job, workers=arguments.workers, threads=1, out=arguments.out)


if __name__ == "__main__":
    main()
