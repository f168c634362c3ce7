"""Put into torch what a script is to find there, wherever torch itself has already imported it."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data.distributed import DistributedSampler

from unisono.scripts.after_import import after_import
from unisono.scripts.pytorch.one_rank.ddp import OneRankDistributedDataParallel
from unisono.scripts.pytorch.one_rank.process_group import one_rank
from unisono.scripts.pytorch.one_rank.sampler import of_all_samples
from unisono.scripts.pytorch.one_rank.sharded import refuse_shards
from unisono.scripts.ranks import ONLY_RANK


def install() -> None:
    """Done once in a process, right after torch's import."""
    ONLY_RANK.set()
    if not torch.distributed.is_available():
        return
    begin = torch.distributed.init_process_group
    _replace(begin, one_rank(begin))
    _replace(DistributedDataParallel, OneRankDistributedDataParallel)
    after_import("torch.distributed.fsdp", lambda: refuse_shards(_replace))
    DistributedSampler.__init__ = of_all_samples(DistributedSampler.__init__)  # type: ignore[method-assign]


def _replace(old: Any, new: Any) -> None:
    """Have each of torch's modules that names one object name another."""
    for name, module in list(sys.modules.items()):
        if name.startswith("torch."):
            for key in [key for key, value in vars(module).items() if value is old]:
                setattr(module, key, new)
