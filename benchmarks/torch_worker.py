"""One process of DDP (gloo), of DDP that keeps old values, of the limit (the same loop with no synchronisation, in as
many pieces as its share of Unisono's microbatches), or the one process whose operations use both cores.

Started by torchrun; process 0 writes the step times to the file named last.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from models import case_named, optimizer
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

sys.path.append(str(Path(__file__).parent / "peers"))

from keeping import KeepingOld, chunks


def update(contender: str, optimizer_name: str, model: nn.Module) -> Callable[[], object]:
    """What a step ends with."""
    if contender != "ddp-keeping":
        return optimizer(optimizer_name, model).step
    parameters = list(model.parameters())
    updates = KeepingOld(partial(optimizer, optimizer_name), chunks(parameters))
    return lambda: updates.step(chunks(parameter.grad for parameter in parameters))


def main(contender: str, case_name: str, optimizer_name: str, steps: int, file: Path, pieces: int) -> None:
    """Train `steps` steps on this process's part of each batch."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    cores = sorted(os.sched_getaffinity(0))
    own = cores[:2] if contender == "process" else [cores[rank % len(cores)]]
    os.sched_setaffinity(0, own)
    torch.set_num_threads(len(own))
    dist.init_process_group("gloo")
    case = case_named(case_name)
    torch.manual_seed(0)
    model = case.model()
    plain = contender in ("limit", "process")
    trained = model if plain else DistributedDataParallel(model, gradient_as_bucket_view=True)
    update_parameters = update(contender, optimizer_name, model)
    data = case.data()
    sampler: DistributedSampler[object] = DistributedSampler(data, world, rank)
    loader = DataLoader(data, case.batch_size // world, sampler=sampler, drop_last=True)
    seconds: list[float] = []
    dist.barrier()
    last = time.perf_counter()
    while len(seconds) < steps:
        for inputs, targets in loader:
            model.zero_grad()
            for part, wanted in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
                (F.cross_entropy(trained(part), wanted) * (len(part) / len(inputs))).backward()
            update_parameters()
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
    main(*sys.argv[1:4], int(sys.argv[4]), Path(sys.argv[5]), int((sys.argv[6:] or ["1"])[0]))
