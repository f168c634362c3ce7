"""Digits with DistributedDataParallel, ranks started by mp.spawn: `python ddp_spawn.py --ranks 2`.

Nothing here knows of Unisono; `unisono run ddp_spawn.py` runs it as it stands.
"""

import argparse
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def main(rank, options):
    address = f"tcp://127.0.0.1:{options.port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=options.ranks)
    torch.manual_seed(options.seed)

    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16).float(), torch.tensor(labels))
    sampler = DistributedSampler(data, num_replicas=options.ranks, rank=rank)
    loader = DataLoader(data, batch_size=options.batch, sampler=sampler)

    model = DDP(nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    for epoch in range(options.epochs):
        sampler.set_epoch(epoch)
        model.train()
        seen = torch.zeros(2)
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            seen += torch.tensor([loss.item() * len(y), len(y)])
        dist.all_reduce(seen)
        if rank == 0:
            print(f"epoch {epoch}: loss {seen[0] / seen[1]:.4f} over {int(seen[1])} samples", flush=True)
    if rank == 0:
        torch.save(model.module.state_dict(), options.out)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--port", type=int, default=free_port())
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="digits.pt")
    options = parser.parse_args()
    mp.spawn(main, args=(options,), nprocs=options.ranks)
