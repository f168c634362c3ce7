"""One of two processes that measure the cable between them: bare sockets, and gloo's operations one by one.

Usage: gloo_peer.py RANK FILE; MASTER_ADDR and MASTER_PORT say where they meet. Process 0 writes name → seconds.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

MIB = 1 << 20
WHOLE = 24 * MIB
"""About the MLP's gradients."""
TIMES, WARM_UP, MANY = 9, 2, 500


def median(work: Callable[[], None], times: int = TIMES) -> float:
    """The median of several tries, which begin together."""
    taken = []
    for _ in range(times + WARM_UP):
        dist.barrier()
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[WARM_UP:])


def exchange(peer: int, size: int, count: int) -> Callable[[], None]:
    """`count` messages of `size` bytes each way at once, every receive posted before the first send."""
    out = [torch.ones(size // 4) for _ in range(count)]
    into = [torch.empty(size // 4) for _ in range(count)]

    def work() -> None:
        posted = [dist.irecv(tensor, peer, tag=number) for number, tensor in enumerate(into)]
        posted += [dist.isend(tensor, peer, tag=number) for number, tensor in enumerate(out)]
        for one in posted:
            assert one is not None
            one.wait()

    return work


def ping_pong(rank: int, word: Tensor) -> None:
    """Four bytes there and back."""
    for turn in (0, 1):
        if turn == rank:
            dist.send(word, 1 - rank)
        else:
            dist.recv(word, 1 - rank)


def meet(rank: int) -> socket.socket:
    """A bare connection between the two."""
    if rank:
        dist.barrier()
        return socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1))
    with socket.create_server((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1)) as listener:
        dist.barrier()
        return listener.accept()[0]


def receive(end: socket.socket, into: memoryview) -> None:
    """Fill a buffer."""
    filled = 0
    while filled < len(into):
        filled += end.recv_into(into[filled:])


def both_ways(end: socket.socket, out: bytearray, into: memoryview) -> None:
    """Send one buffer and fill the other at once."""
    sender = threading.Thread(target=end.sendall, args=(out,))
    sender.start()
    receive(end, into)
    sender.join()


def one_way(end: socket.socket, rank: int, out: bytearray, into: memoryview) -> None:
    """Process 0 sends; an answer says that all has come."""
    if rank:
        receive(end, into)
        end.sendall(b"x")
    else:
        end.sendall(out)
        end.recv(1)


def main(rank: int, file: Path) -> None:
    """Measure everything."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    seconds = {}
    with meet(rank) as end:
        out, into = bytearray(WHOLE), memoryview(bytearray(WHOLE))
        seconds["sockets, 24 MiB one way"] = median(lambda: one_way(end, rank, out, into))
        seconds["sockets, 24 MiB each way"] = median(lambda: both_ways(end, out, into))
    gradients = torch.ones(WHOLE // 4)
    seconds["all_reduce, 24 MiB"] = median(lambda: dist.all_reduce(gradients))
    for size in (1, 4, 8, 24):
        count = WHOLE // (size * MIB)
        seconds[f"isend/irecv, {count} × {size} MiB each way"] = median(exchange(1 - rank, size * MIB, count))
        seconds[f"isend/irecv, 1 × {size} MiB each way"] = median(exchange(1 - rank, size * MIB, 1))
    for size in (64, 4096):
        name = f"isend + irecv of {size} bytes, {MANY} posted, each pair"
        seconds[name] = median(exchange(1 - rank, size, MANY)) / MANY
    word = torch.zeros(1)
    seconds["send and recv of 4 bytes, there and back"] = median(lambda: ping_pong(rank, word), 20 * TIMES)
    seconds["barrier"] = median(dist.barrier, 20 * TIMES)
    if rank == 0:
        file.write_text(json.dumps(seconds))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
