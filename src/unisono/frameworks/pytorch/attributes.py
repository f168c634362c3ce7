"""Plain attributes of a PyTorch model and of its loss: see `unisono.frameworks.attributes`."""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import Tensor, nn

from unisono.frameworks.attributes import Attributes, content
from unisono.frameworks.pytorch.stages.travel import as_array
from unisono.frameworks.pytorch.state_tensors import StateTensors

_COMMON = frozenset(vars(nn.Module()))


def attributes_of(model: nn.Module, loss: Any) -> Attributes:
    """Those of the modules that are not PyTorch's own, and of a loss that is an object."""
    holders = {name: module for name, module in model.named_modules() if _is_own(module)}
    if isinstance(loss, nn.Module):
        holders |= {f"loss.{name}".rstrip("."): part for name, part in loss.named_modules() if _is_own(part)}
    elif hasattr(loss, "__dict__") and not isinstance(loss, type | types.FunctionType | functools.partial):
        holders["loss"] = loss
    parts = StateTensors(model)
    return Attributes(
        holders, _COMMON, _content, lambda value: _generator(value) or parts.mark(value), "register_buffer"
    )


def _is_own(module: nn.Module) -> bool:
    return not type(module).__module__.startswith("torch.")


def _generator(value: Any) -> Any:
    return value.get_state().numpy().tobytes() if isinstance(value, torch.Generator) else None


def _content(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return id(value)
    if isinstance(value, Tensor):
        if value.device.type != "cpu":  # nothing is fetched in a pass: which one it is, and how often it was written
            return id(value), value._version
        try:
            return value.dtype, content(as_array(value.detach().contiguous()))
        except (TypeError, RuntimeError):
            return id(value)
    return _generator(value)
