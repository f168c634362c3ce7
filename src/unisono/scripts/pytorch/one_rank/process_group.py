"""A process group of one rank, whatever the script says of others: without an address, without a port."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from unisono.errors import UsageError
from unisono.scripts.said import say_once


def one_rank(begin: Callable[..., None]) -> Callable[..., None]:
    """`init_process_group` of a script that is the only rank.

    Args:
        begin: torch's own.
    """

    @functools.wraps(begin)
    def init_process_group(
        backend: str | None = None, init_method: str | None = None, timeout: Any = None, world_size: int = -1,
        rank: int = -1, store: Any = None, *arguments: Any, **more: Any,
    ) -> None:  # fmt: skip
        if rank > 0:
            _leave(rank)
        ranks = world_size if world_size > 1 else 4
        say_once(
            f"one rank: this script's batch is the global batch (torchrun --nproc-per-node={ranks} made it {ranks} "
            "times as large)"
        )
        if world_size > 1:
            say_once(
                f"the script asks for {world_size} ranks and gets one: torch.distributed.get_world_size() is 1; what "
                f"it divides by a {world_size} of its own is {world_size} times too small"
            )
        if not torch.cuda.is_available():
            more.pop("device_id", None)
        here = torch.distributed.HashStore()  # type: ignore[attr-defined]
        begin(without_nccl(backend), None, timeout, 1, 0, here, *arguments, **more)

    return init_process_group


def without_nccl(backend: str | None) -> str | None:
    """The backend, gloo for nccl where there is no GPU.

    Args:
        backend: as `init_process_group` takes it: also by device, cpu:gloo,cuda:nccl.
    """
    if backend is None or "nccl" not in backend or torch.cuda.is_available():
        return backend
    say_once("there is no GPU here: gloo instead of nccl")
    return "gloo"


def _leave(rank: int) -> None:
    """A rank beside the first has nothing to do: its part is in the first one's batch."""
    if multiprocessing.parent_process() is None:
        raise UsageError(
            f"a script under unisono run is the only rank, 0; received rank={rank}. Start it once, as "
            "unisono run script.py, and take the rank from the variable RANK."
        )
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)
