"""An example's job under Unisono, or in a plain PyTorch loop: DDP (started by torchrun), or one process.

python application.py unisono|ddp|plain JOB_FILE STEPS THREADS LOADERS RESULT

The loop is what a person writes who has the job's parts: the same model, loss, optimizer, schedule, clipping,
precision, order of the samples and collate, read by a DataLoader with LOADERS processes. RESULT gets the seconds of
each step.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import unisono
from unisono.job import Job
from unisono.partition.order import epoch_order
from unisono.runs.jobfile import load


def batches(job: Job, steps: int, rank: int, world: int) -> Iterator[list[int]]:
    """This process's share of each batch, in the order that Unisono takes."""
    done = 0
    for epoch in range(steps):
        order = epoch_order(job.order, len(job.data), job.seed, epoch)
        for start in range(0, len(order) - job.batch_size + 1, job.batch_size):
            if done == steps:
                return
            done += 1
            share = job.batch_size // world
            yield order[start + rank * share : start + (rank + 1) * share].tolist()


def loop(job: Job, steps: int, threads: int, loaders: int) -> list[float]:
    """The seconds of each step of a plain training loop."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(threads)
    torch.manual_seed(job.seed)
    model = job.model()
    trained = DistributedDataParallel(model, gradient_as_bucket_view=True) if world > 1 else model
    optimizer: Any = job.optimizer(model)
    schedule = job.schedule(optimizer, steps) if job.schedule else None
    loader = DataLoader(
        job.data, batch_sampler=list(batches(job, steps, rank, world)), collate_fn=job.collate, num_workers=loaders
    )
    seconds, last = [], time.perf_counter()
    for inputs, targets in loader:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bfloat16"):
            outputs = trained(*inputs) if isinstance(inputs, tuple | list) else trained(inputs)
            loss = job.loss(outputs, targets)
        mean = loss[0] / loss[1] if isinstance(loss, tuple) else loss
        mean.backward()
        if job.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), job.clip_norm)
        optimizer.step()
        if schedule:
            schedule.step()
        float(mean.detach())
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    return seconds


def main(mode: str, file: str, steps: int, threads: int, loaders: int, result: Path) -> None:
    """Train so many steps and write how long each took."""
    job = replace(load(file).job, epochs=None, steps=steps, evaluation=None, metrics={}, best=None)
    if mode == "unisono":
        with tempfile.TemporaryDirectory() as out:
            run = unisono.train(job, workers=2, threads=threads, out=Path(out) / "run")
            seconds = [record["step_seconds"] for record in run.history if "step_seconds" in record]
            shares = [(sum(r["data_seconds"]), 2 * r["step_seconds"]) for r in run.history if "step_seconds" in r]
        result.write_text(json.dumps({"seconds": seconds, "data": shares}))
        return
    if mode == "ddp":
        dist.init_process_group("gloo")
    seconds = loop(job, steps, threads, loaders)
    if int(os.environ.get("RANK", 0)) == 0:
        result.write_text(json.dumps({"seconds": seconds}))
    if mode == "ddp":
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]), Path(sys.argv[6]))
