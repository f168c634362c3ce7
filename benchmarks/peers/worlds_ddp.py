"""One process of DDP (gloo) that trains the digits job, as one writes it with torch.distributed.

torchrun --nproc-per-node=N benchmarks/peers/worlds_ddp.py RESULT.json BATCH_SIZE EPOCHS

Model, data, loss and optimizer are those of examples/digits_torch.py. The batch size is the global one. One
permutation is dealt out (DistributedSampler), so every number of processes sees the same global batches. Process 0
writes each step's mean loss over the global batch, and the parameters' hash.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

sys.path.append(str(Path(__file__).parent.parent.parent / "examples"))

from digits_torch import job

from unisono.checkpoint.parameters import Tensors, sha256_of


def hash_of(model: nn.Module) -> str:
    """The hash that Unisono gives these parameters and buffers."""
    found = Tensors()
    for name, tensor in model.state_dict().items():
        found.add(name, tensor.numpy(), str(tensor.dtype).removeprefix("torch."))
    return sha256_of(found)


def main(file: Path, batch_size: int, epochs: int) -> None:
    """Train, and write what came of it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    plain = job()
    torch.manual_seed(plain.seed)
    model = plain.model()
    trained, optimizer = DistributedDataParallel(model), plain.optimizer(model)
    data = plain.data()
    sampler: DistributedSampler[object] = DistributedSampler(data, world, rank, seed=plain.seed)
    loader = DataLoader(data, batch_size // world, sampler=sampler, drop_last=True)
    losses = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(trained(inputs), targets)
            loss.backward()
            optimizer.step()
            mean = loss.detach() / world
            dist.all_reduce(mean)
            losses.append(mean.item())
    if rank == 0:
        file.write_text(json.dumps({"losses": losses, "sha256": hash_of(model)}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
