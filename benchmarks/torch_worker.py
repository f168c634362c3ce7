"""One process of DDP (gloo), of DDP that keeps old values, or of the limit: the same loop with no synchronisation.

Started by torchrun; process 0 writes the step times to the file named last.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from models import CASES, optimizer
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

CHUNK = 1 << 18
"""Elements that are updated in one go where old values are kept, as in Unisono."""


class KeepingOld:
    """An optimizer that works in place chunk by chunk and first copies a chunk's old values: the least that lets
    somebody else do the chunk again where a process is killed amid it."""

    def __init__(self, name: str, model: nn.Module) -> None:
        self._model, self._old = model, torch.empty(3, CHUNK)
        self._chunks = [
            (parameter, number, chunk, optimizer(name, nn.ParameterList([chunk])))
            for parameter in model.parameters()
            for number, chunk in enumerate(map(nn.Parameter, parameter.detach().view(-1).split(CHUNK)))
        ]

    def zero_grad(self) -> None:
        """See torch.optim.Optimizer."""
        self._model.zero_grad()

    def step(self) -> None:
        """See torch.optim.Optimizer."""
        for parameter, number, chunk, updates in self._chunks:
            assert parameter.grad is not None
            chunk.grad = parameter.grad.view(-1)[number * CHUNK : number * CHUNK + len(chunk)]
            state = [value for value in updates.state[chunk].values() if value is not None and value.dim()]
            for old, value in zip(self._old, [chunk.detach(), *state], strict=False):
                old[: len(value)].copy_(value)
            updates.step()


def main(contender: str, case_name: str, optimizer_name: str, steps: int, file: Path) -> None:
    """Train `steps` steps on this process's half of each batch."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    case = CASES[case_name]
    torch.manual_seed(0)
    model = case.model()
    trained = model if contender == "limit" else DistributedDataParallel(model, gradient_as_bucket_view=True)
    keeping = contender == "ddp-keeping"
    updates = KeepingOld(optimizer_name, model) if keeping else optimizer(optimizer_name, model)
    data = case.data()
    sampler: DistributedSampler[object] = DistributedSampler(data, world, rank)
    loader = DataLoader(data, case.batch_size // world, sampler=sampler, drop_last=True)
    seconds: list[float] = []
    dist.barrier()
    last = time.perf_counter()
    while len(seconds) < steps:
        for inputs, targets in loader:
            updates.zero_grad()
            F.cross_entropy(trained(inputs), targets).backward()
            updates.step()
            now = time.perf_counter()
            seconds.append(now - last)
            last = now
            if len(seconds) == steps:
                break
    if rank == 0:
        file.write_text(json.dumps(seconds))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
