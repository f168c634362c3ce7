"""One process of DDP under torchrun's elastic agent: trains, keeps a checkpoint every 50 steps, goes on from it.

Process 0 appends (time, step) of every finished step to a file.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from models import case_named, optimizer
from torch.nn.parallel import DistributedDataParallel

EVERY = 50


def main(case_name: str, folder: Path) -> None:
    """Train until killed."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    case = case_named(case_name)
    torch.manual_seed(0)
    trained = DistributedDataParallel(case.model(), gradient_as_bucket_view=True)
    updates = optimizer("adamw", trained)
    inputs, targets = case.data().tensors
    saved, step = folder / "checkpoint.pt", 0
    if saved.exists():
        state = torch.load(saved)
        trained.load_state_dict(state["model"])
        updates.load_state_dict(state["optimizer"])
        step = state["step"]
    share = case.batch_size // world
    with (folder / "steps.txt").open("a") as log:
        while True:
            start = (step * case.batch_size + rank * share) % (len(inputs) - share)
            updates.zero_grad()
            F.cross_entropy(trained(inputs[start : start + share]), targets[start : start + share]).backward()
            updates.step()
            step += 1
            if rank == 0:
                print(time.time(), step, file=log, flush=True)
                if step % EVERY == 0:
                    aside = saved.with_suffix(".tmp")
                    torch.save({"model": trained.state_dict(), "optimizer": updates.state_dict(), "step": step}, aside)
                    aside.replace(saved)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
