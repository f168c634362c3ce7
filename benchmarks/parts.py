"""The parts of a step, measured alone: barrier latency, overhead of a tiny step, update of 100 M parameters, start-up.

python benchmarks/parts.py [--parameters 100000000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import unisono
from unisono.memory.segment import Segment, SegmentLayout
from unisono.memory.words import Words

HERE = Path(__file__).parent


def barrier_microseconds(rounds: int = 5000) -> float:
    """Median time of one barrier between two pinned processes."""
    layout = SegmentLayout()
    layout.add("words", "int64", (2, 8))
    layout.add("seconds", "float64", (rounds,))
    segment = Segment.create(layout)
    cores = sorted(os.sched_getaffinity(0))
    children = []
    for slot in range(2):
        process = os.fork()
        if process:
            children.append(process)
            continue
        os.sched_setaffinity(0, {cores[slot % len(cores)]})
        words = Words(segment, "words", 100e-6)
        for number in range(1, rounds + 1):
            started = time.perf_counter()
            words.publish(slot, number)
            words.wait(1 - slot, number)
            if slot == 0:
                segment["seconds"][number - 1] = time.perf_counter() - started
        os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    return 1e6 * float(np.median(segment["seconds"]))


def copy_bytes_per_second(size: int = 1 << 28) -> float:
    """Bytes read and written a second when two processes copy at once, each its own array."""
    layout = SegmentLayout()
    layout.add("seconds", "float64", (2,))
    segment = Segment.create(layout)
    cores = sorted(os.sched_getaffinity(0))
    children = []
    for slot in range(2):
        process = os.fork()
        if process:
            children.append(process)
            continue
        os.sched_setaffinity(0, {cores[slot % len(cores)]})
        source, target = np.ones(size // 4, np.float32), np.zeros(size // 4, np.float32)
        seconds = []
        for _ in range(7):
            started = time.perf_counter()
            np.copyto(target, source)
            seconds.append(time.perf_counter() - started)
        segment["seconds"][slot] = statistics.median(seconds)
        os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    return 2 * 2 * size / float(segment["seconds"].max())


class Flat(nn.Module):
    """One vector of parameters whose gradient costs nothing but writing it."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(count))

    def forward(self, inputs: Tensor) -> Tensor:
        """The first parameter, as many times as there are inputs."""
        return self.values[:1].expand(len(inputs))


def mean_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean of the outputs."""
    return outputs.mean()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Fused AdamW."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


class Tiny(nn.Linear):
    """A model whose computing is almost nothing."""

    def __init__(self) -> None:
        super().__init__(8, 2)


def records(job: unisono.Job) -> list[dict[str, Any]]:
    """Train on 2 workers and return the step records after warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        run = unisono.train(job, workers=2, out=Path(folder) / "run")
        return run.history[min(50, len(run.history) // 5) :]


def update_ratio(parameters: int) -> dict[str, float]:
    """Accumulate + AdamW update on 2 workers against the time to copy the bytes that must move."""
    data = TensorDataset(torch.zeros(8, 1), torch.zeros(8))
    job = unisono.Job(
        model=lambda: Flat(parameters), loss=mean_of, optimizer=adamw, data=data, batch_size=4, microbatches=2, steps=12
    )
    seconds = statistics.median(max(record["update_seconds"]) for record in records(job))
    must_move = parameters * 4 * (2 + 3 + 3)  # two gradients, then parameters and two moments in and out
    bandwidth = copy_bytes_per_second()
    return {
        "update_seconds": seconds,
        "copy_gigabytes_per_second": bandwidth / 1e9,
        "copy_seconds": must_move / bandwidth,
        "ratio": seconds * bandwidth / must_move,
    }


def overhead() -> dict[str, float]:
    """A tiny model, one microbatch a worker: the step's time and the user's computing alone (milliseconds)."""
    data = TensorDataset(torch.zeros(64, 8), torch.zeros(64, dtype=torch.long))
    job = unisono.Job(
        model=Tiny,
        loss=nn.functional.cross_entropy,
        optimizer=adamw,
        data=data,
        batch_size=4,
        microbatches=2,
        steps=3000,
    )
    step = statistics.median(record["step_seconds"] for record in records(job))
    model, inputs, targets = Tiny(), torch.zeros(2, 8), torch.zeros(2, dtype=torch.long)
    optimizer = adamw(model)
    torch.set_num_threads(1)
    seconds = []
    for _ in range(2000):
        started = time.perf_counter()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    alone = statistics.median(seconds)
    return {"step_ms": 1e3 * step, "alone_ms": 1e3 * alone, "overhead_ms": 1e3 * (step - alone)}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=100_000_000)
    arguments = parser.parse_args()
    results = {
        "barrier_microseconds": barrier_microseconds(),
        "overhead": overhead(),
        "update": update_ratio(arguments.parameters),
        "parameters": arguments.parameters,
    }
    text = json.dumps(results, indent=2)
    print(text)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "parts.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
