"""A script with its own loop, as it was written or with the one line of `unisono.parallel`.

python benchmarks/peers/script.py CASE OPTIMIZER STEPS WARM_UP MICROBATCHES RESULT    (0 microbatches: without the line)

It leaves in RESULT: seconds of each step, seconds from the line until the first call is done, and CPU seconds per step
after warm-up, its own process's and its workers'.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

sys.path.append(str(Path(__file__).parents[1]))

from models import case_named, optimizer

import unisono


def cpu_seconds() -> tuple[float, float]:
    """Of this process, and of all that it has started and that live."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return time.process_time(), sum(each.user + each.system for each in times)


def main(case_name: str, optimizer_name: str, steps: int, warm_up: int, microbatches: int, result: Path) -> None:
    """Train, and leave what it took."""
    case = case_named(case_name)
    torch.manual_seed(0)
    model = case.model()
    started = time.perf_counter()
    if microbatches:
        model = unisono.parallel(model, microbatches=microbatches, workers=2)
    update = optimizer(optimizer_name, model)
    loader = DataLoader(case.data(), case.batch_size, shuffle=True, drop_last=True)
    seconds: list[float] = []
    first, before = 0.0, (0.0, 0.0)
    last = time.perf_counter()
    while len(seconds) < steps:
        for inputs, targets in loader:
            loss = F.cross_entropy(model(inputs), targets)
            first = first or time.perf_counter() - started
            update.zero_grad()
            loss.backward()
            update.step()
            now = time.perf_counter()
            seconds.append(now - last)
            last = now
            if len(seconds) == warm_up:
                before = cpu_seconds()
                last = time.perf_counter()
            if len(seconds) == steps:
                break
    own, workers = ((now - then) / (steps - warm_up) for now, then in zip(cpu_seconds(), before, strict=True))
    result.write_text(json.dumps({"seconds": seconds, "first_call": first, "own_cpu": own, "workers_cpu": workers}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]), Path(sys.argv[6]))
