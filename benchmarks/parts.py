"""The parts, measured alone: barrier, overhead of a tiny step, update and memory of 100 M parameters, the stall of a
checkpoint, 64 workers on this machine, start-up.

python benchmarks/parts.py [--parameters 100000000] [--only barrier,overhead,update,memory,checkpoint,scale,start]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import unisono
from unisono.machine.devices import usable_cores
from unisono.memory.segment import Segment, SegmentLayout
from unisono.memory.words import Words
from unisono.observe.progress import Silent
from unisono.runs.execution import execute
from unisono.runs.observation import Observation
from unisono.runtime.rules.request import Request

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


class Deep(nn.Sequential):
    """As many parameters in layers of 2048 × 2048, as models have them."""

    def __init__(self, parameters: int) -> None:
        super().__init__(*(nn.Linear(2048, 2048) for _ in range(parameters // (2048 * 2048))))


def deep_job(parameters: int, steps: int) -> unisono.Job:
    """Layers of 2048 × 2048 with AdamW."""
    data = TensorDataset(torch.zeros(8, 2048), torch.zeros(8))
    return unisono.Job(
        model=lambda: Deep(parameters), loss=mean_of, optimizer=adamw, data=data, batch_size=4, microbatches=2,
        steps=steps,
    )  # fmt: skip


def peak_pss(job: unisono.Job) -> int:
    """The highest PSS (bytes) of this process and all its descendants while a job trains on 2 workers."""
    over = threading.Event()
    peak = 0

    def watch() -> None:
        nonlocal peak
        own = psutil.Process()
        while not over.wait(0.2):
            with suppress(psutil.Error):
                held = sum(process.memory_full_info().pss for process in [own, *own.children(recursive=True)])
                peak = max(peak, held)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        records(job)
    finally:
        over.set()
        thread.join()
    return peak


def memory(parameters: int) -> dict[str, float]:
    """Bytes a parameter for Adam on 2 workers: PSS less that of a tiny model, at rest in training."""
    count = sum(p.numel() for p in Deep(parameters).parameters())
    tiny = peak_pss(deep_job(2048 * 2048, 20))
    held = peak_pss(deep_job(parameters, 20))
    return {
        "bytes_per_parameter": (held - tiny) / (count - 2048 * 2049),
        "promised": 12 + 4 * 2,
        "pss_gib": held / 2**30,
    }


def checkpoint_stall(parameters: int) -> dict[str, float]:
    """How much longer a step with a checkpoint takes, against a plain copy of the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        run = unisono.train(deep_job(parameters, 41), workers=2, out=Path(folder) / "run", checkpoint_every=10, keep=1)
        seconds = {record["step"]: record["step_seconds"] for record in run.history}
    usual = statistics.median(value for step, value in seconds.items() if step % 10 != 1)
    stall = statistics.median(seconds[step] - usual for step in (11, 21, 31))
    source, target = np.ones(3 * parameters, np.float32), np.zeros(3 * parameters, np.float32)
    copies = []
    for _ in range(5):
        started = time.perf_counter()
        np.copyto(target, source)
        copies.append(time.perf_counter() - started)
    return {"stall_seconds": stall, "copy_seconds": statistics.median(copies), "step_seconds": usual}


class Wide(nn.Sequential):
    """784-1024-10."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 10))


def scale() -> dict[str, float]:
    """64 workers with 64 microbatches against 2 workers with the same (784-1024-10, batch 4096)."""
    data = TensorDataset(torch.zeros(4096, 784), torch.zeros(4096, dtype=torch.long))
    job = unisono.Job(
        model=Wide, loss=nn.functional.cross_entropy, optimizer=adamw, data=data, batch_size=4096, microbatches=64,
        steps=60,
    )  # fmt: skip
    found, hashes = {}, set()
    for workers in (2, 64):
        with tempfile.TemporaryDirectory() as folder:
            run = unisono.train(job, workers=workers, out=Path(folder) / "run")
            found[workers] = statistics.median(record["step_seconds"] for record in run.history[10:])
            hashes.add(run.parameters_sha256)
    return {"step_seconds_2": found[2], "step_seconds_64": found[64], "ratio": found[64] / found[2],
            "same_bits": float(len(hashes) == 1)}  # fmt: skip


def start() -> dict[str, float]:
    """From the fork of a worker to its first look at a plan (seconds)."""
    seen: list[tuple[float, int]] = []

    class Seen(Observation):
        def workers(self, alive: int) -> None:
            seen.append((time.perf_counter(), alive))

    job = deep_job(2048 * 2048, 30)
    execute(job, Request(2, 1, usable_cores()), Seen(job, Silent()))
    forked = seen[0][0]
    return {"seconds": next(at for at, alive in seen if alive == 2) - forked}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--only", default="barrier,overhead,update,memory,checkpoint,scale,start")
    arguments = parser.parse_args()
    count = arguments.parameters
    parts: dict[str, Callable[[], Any]] = {
        "barrier": lambda: {"microseconds": barrier_microseconds()},
        "overhead": overhead,
        "update": lambda: update_ratio(count),
        "memory": lambda: memory(count),
        "checkpoint": lambda: checkpoint_stall(count),
        "scale": scale,
        "start": start,
    }
    file = HERE / "results" / "parts.json"
    file.parent.mkdir(exist_ok=True)
    results = json.loads(file.read_text()) if file.exists() else {}
    results["parameters"] = count
    for name in arguments.only.split(","):
        results[name] = parts[name]()
        print(name, json.dumps(results[name]), flush=True)
        file.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
