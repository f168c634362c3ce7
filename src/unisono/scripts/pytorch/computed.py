"""What hooks of torch.nn.utils (weight_norm, spectral_norm, prune) compute before each forward pass: no state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_KINDS = (BasePruningMethod, SpectralNorm, WeightNorm)


def computed(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that hooks compute, with their hooks."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _KINDS)]
    return {hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name: hook for hook in hooks}


def without_graphs(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A module's state in which what is computed knows of nothing that it was computed from."""
    return {
        name: value.detach() if name in computed(module) and isinstance(value, torch.Tensor) else value
        for name, value in state.items()
    }


def compute_again(modules: Sequence[nn.Module]) -> None:
    """Give modules what a forward pass in this process would have left on them.

    Args:
        modules: those that have such hooks.
    """
    for module in modules:
        for name, hook in computed(module).items():
            if isinstance(hook, SpectralNorm):  # its vectors are as the pass has left them
                setattr(module, name, hook.compute_weight(module, do_power_iteration=False))
            else:
                hook(module, ())
