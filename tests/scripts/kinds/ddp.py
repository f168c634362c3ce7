"""DistributedDataParallel as a rank of several writes it: a sampler, no_sync, clipped gradients, rank guards."""

import contextlib
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def main(file):
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())  # where a launcher gives an address
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    x = torch.randn(96, 8)
    data = TensorDataset(x, x.sum(1).gt(0).long())
    sampler = DistributedSampler(data, drop_last=True)
    loader = DataLoader(data, batch_size=24 // ranks, sampler=sampler)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        total = torch.zeros(2)
        for number, (inputs, labels) in enumerate(loader):
            steps = number % 2 == 1
            with contextlib.nullcontext() if steps else model.no_sync():
                loss = F.cross_entropy(model(inputs), labels) / 2
                loss.backward()
            if steps:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
            total += torch.tensor([2 * loss.item(), 1])
        dist.all_reduce(total)
        dist.barrier()
        if rank == 0:
            print(f"epoch {epoch}: loss {total[0] / total[1]:.4f}", flush=True)
            torch.save(model.module.state_dict(), file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
