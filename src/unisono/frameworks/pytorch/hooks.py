"""Optimizers that look into the passes themselves: they would see one worker's microbatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from unisono.errors import UsageError

_OF_MODULES = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_OF_PARAMETERS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def made(optimizer: Callable[[torch.nn.Module], Any], model: torch.nn.Module) -> Any:
    """What `Job.optimizer` makes for a model.

    Raises:
        UsageError: that has put hooks into the model.
    """
    before = _hooks(model)
    result = optimizer(model)
    for name, count in _hooks(model).items():
        if count > before.get(name, 0):
            raise UsageError(
                "an optimizer works with gradients that are summed over all microbatches; job.optimizer has put a hook "
                f"into {name}, which would see those of one worker alone. Compute what it needs in step(), from "
                "parameters and gradients, or have the model keep it as a buffer."
            )
    return result


def _hooks(model: torch.nn.Module) -> dict[str, int]:
    """How many each module and parameter has."""
    modules = {f"{name or 'the model'!r}": _count(module, _OF_MODULES) for name, module in model.named_modules()}
    return {**modules, **{f"{name!r}": _count(value, _OF_PARAMETERS) for name, value in model.named_parameters()}}


def _count(holder: Any, kinds: tuple[str, ...]) -> int:
    return sum(len(getattr(holder, kind, None) or ()) for kind in kinds)
