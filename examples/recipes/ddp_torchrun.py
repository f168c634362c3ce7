"""Digits with DistributedDataParallel, ranks started by torchrun: `torchrun --nproc-per-node=2 ddp_torchrun.py`.

Gradients are accumulated over two batches (no_sync), and a checkpoint is read back by every rank. Nothing here knows of
Unisono; `unisono run ddp_torchrun.py` runs it as it stands.
"""

import contextlib
import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

ACCUMULATE = 2


def main(file):
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, local_rank, ranks = dist.get_rank(), int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    torch.manual_seed(0)

    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16).float(), torch.tensor(labels))
    sampler = DistributedSampler(data, drop_last=True)
    loader = DataLoader(data, batch_size=128 // ranks, sampler=sampler)

    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10)).to(device)
    model = DDP(net, device_ids=[local_rank] if device.type == "cuda" else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for number, (x, y) in enumerate(loader):
            last = number % ACCUMULATE == ACCUMULATE - 1
            with contextlib.nullcontext() if last else model.no_sync():
                loss = F.cross_entropy(model(x.to(device)), y.to(device)) / ACCUMULATE
                loss.backward()
            if last:
                optimizer.step()
                optimizer.zero_grad()
        mean = loss.detach() * ACCUMULATE / ranks
        dist.all_reduce(mean)
        if rank == 0:
            print(f"epoch {epoch}: last batch's loss {mean.item():.4f}", flush=True)
            torch.save(model.state_dict(), file)
    dist.barrier()
    model.load_state_dict(torch.load(file, map_location=device))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "digits.pt")
