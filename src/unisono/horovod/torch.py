"""horovod.torch with one rank: `import unisono.horovod.torch as hvd`, or no change at all under `unisono run`.

The model whose parameters `DistributedOptimizer` is given becomes a parallel one, as by `unisono.parallel`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from contextlib import nullcontext
from enum import Enum
from typing import Any, NoReturn

import torch
from torch import nn

import unisono
from unisono.errors import UsageError


class Op(Enum):
    """How a tensor of one rank becomes that of all."""

    AVERAGE = "Average"
    SUM = "Sum"
    MIN = "Min"
    MAX = "Max"
    PRODUCT = "Product"
    ADASUM = "Adasum"


Average, Sum, Min, Max, Product, Adasum = Op


class Compression(Enum):
    """Accepted: with one rank nothing is sent that could be compressed."""

    none = "none"
    fp16 = "fp16"
    bf16 = "bf16"


def init(*arguments: Any, **more: Any) -> None:
    """Nobody is waited for."""


def shutdown() -> None:
    """Nobody is left."""


def is_initialized() -> bool:
    """There is one rank, always."""
    return True


def rank() -> int:
    """The only one."""
    return 0


def size() -> int:
    """How many ranks: a batch of the script is the global batch."""
    return 1


local_rank = cross_rank = rank
local_size = cross_size = size


def allreduce(
    tensor: torch.Tensor, average: bool | None = None, name: str | None = None,
    compression: Compression = Compression.none, op: Op | None = None, prescale_factor: float = 1.0,
    postscale_factor: float = 1.0, **more: Any,
) -> torch.Tensor:  # fmt: skip
    """The tensor of the only rank, scaled.

    >>> allreduce(torch.ones(2), op=Sum, postscale_factor=0.5)
    tensor([0.5000, 0.5000])
    """
    _refuse_adasum(op)
    return tensor * (prescale_factor * postscale_factor) if prescale_factor * postscale_factor != 1 else tensor.clone()


def allgather(tensor: torch.Tensor, name: str | None = None, **more: Any) -> torch.Tensor:
    """The rows of the only rank."""
    return tensor.clone()


def broadcast(tensor: torch.Tensor, root_rank: int, name: str | None = None, **more: Any) -> torch.Tensor:
    """The root's tensor."""
    _check_root(root_rank)
    return tensor.clone()


def broadcast_parameters(params: Any, root_rank: int, **more: Any) -> None:
    """Parameters are as the root has them."""
    _check_root(root_rank)


def broadcast_optimizer_state(optimizer: torch.optim.Optimizer, root_rank: int, **more: Any) -> None:
    """The optimizer's state is as the root has it."""
    _check_root(root_rank)


def broadcast_object(obj: Any, root_rank: int = 0, name: str | None = None, **more: Any) -> Any:
    """The root's object."""
    _check_root(root_rank)
    return obj


def barrier(**more: Any) -> None:
    """Nobody is waited for."""


def DistributedOptimizer(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, nn.Parameter]] | None = None,
    compression: Compression = Compression.none, backward_passes_per_step: int = 1, op: Op = Average, **more: Any,
) -> torch.optim.Optimizer:  # fmt: skip
    """The same optimizer; models whose parameters it has are parallel from now on.

    Raises:
        UsageError: Adasum, or parameters of no module.
    """
    _refuse_adasum(op)
    for model in _models(optimizer):
        unisono.parallel(model)
    optimizer.synchronize = _synchronize  # type: ignore[attr-defined]
    optimizer.skip_synchronize = nullcontext  # type: ignore[attr-defined]
    return optimizer


class SyncBatchNorm(nn.Module):
    """Horovod's layer, of statistics over all ranks; refused.

    Raises:
        UsageError: always.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        raise UsageError(
            "a parallel call's microbatches know nothing of each other; received hvd.SyncBatchNorm, which needs the "
            "whole batch. Use nn.BatchNorm1d, 2d or 3d (statistics of each microbatch, averaged), or nn.GroupNorm."
        )


def _synchronize() -> None:
    """Gradients are whole as soon as `backward` returns."""


def _models(optimizer: torch.optim.Optimizer) -> list[nn.Module]:
    """The outermost modules with parameters that an optimizer has."""
    wanted = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    modules = [each for each in gc.get_objects() if issubclass(type(each), nn.Module)]
    owners = [each for each in modules if any(id(parameter) in wanted for parameter in each.parameters())]
    inner = {id(part) for each in owners for part in each.modules() if part is not each}
    found = [each for each in owners if id(each) not in inner]
    if not found:
        raise UsageError(
            "hvd.DistributedOptimizer takes an optimizer over a module's parameters; received one whose parameters "
            "belong to no module. Make the model first, and give its parameters() to the optimizer."
        )
    return found


def _check_root(root_rank: int) -> None:
    if root_rank != 0:
        raise UsageError(f"there is one rank, 0; received root_rank={root_rank}. Write root_rank=0.")


def _refuse_adasum(op: Op | None) -> None:
    if op is Adasum:
        raise UsageError(
            "Adasum depends on how many ranks there are, and there is one; received op=hvd.Adasum. Use hvd.Average."
        )


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(f"unisono.horovod.torch has no {name!r}: it has what a script with one rank needs")
