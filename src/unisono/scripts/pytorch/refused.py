"""What shares a model among ranks beside `unisono.parallel`, and is refused."""

from __future__ import annotations

import torch
from torch import nn

from unisono.errors import UsageError
from unisono.scripts.ranks import refuse_ranks

_WRAPPERS = frozenset({"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"})


def check_own(module: nn.Module) -> None:
    """Refuse a module that already shares its calls.

    Args:
        module: what `unisono.parallel` was given.

    Raises:
        UsageError: it does.
    """
    bases = type(module).__mro__
    wrapped = [base.__name__ for base in bases if base.__module__.startswith("torch.") and base.__name__ in _WRAPPERS]
    if wrapped and not any(base.__module__.startswith("unisono.") for base in bases):
        raise UsageError(
            f"unisono.parallel takes a model that nobody else shares out; received one in {wrapped[0]}. Pass the model "
            f"itself, and leave out {wrapped[0]}."
        )


def check_only_rank() -> None:
    """Refuse one of several ranks of torch.distributed.

    Raises:
        UsageError: this process is one.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        ranks = torch.distributed.get_world_size()
        refuse_ranks(f"torch.distributed of {ranks} ranks" if ranks > 1 else "")
