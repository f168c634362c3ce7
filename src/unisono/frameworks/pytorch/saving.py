"""Under which names a model's tensors are saved: `state_dict()`'s; their own, where a module saves them otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from unisono.errors import UsageError
from unisono.frameworks.jobs import saved_value


def saved_tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """Name → parameter or persistent buffer, each under one name or several.

    A module may save itself in another form (halves, half precision, nothing at all); its own tensors are saved then.

    Raises:
        UsageError: a module saves what is no tensor.

    >>> class Halves(nn.Linear):
    ...     def state_dict(self, *arguments, **more):
    ...         return {"low": self.weight[:1], "high": self.weight[1:], "bias": self.bias}
    >>> list(saved_tensors(Halves(3, 2)))
    ['bias', 'weight']
    """
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise UsageError(
                f"a module's state is parameters and buffers, which all workers share; {name!r} has a get_extra_state, "
                "which each process would have for itself. Keep it in a buffer (register_buffer), or leave it out if "
                "model() makes the same each time."
            )
    own = dict(_own(model))
    known = set(map(id, own.values()))
    saved = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in known}
    held = set(map(id, saved.values()))
    return {**saved, **{name: tensor for name, tensor in own.items() if id(tensor) not in held}}


def _own(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and persistent buffers."""
    yield from model.named_parameters()
    for prefix, module in model.named_modules():
        for leaf, buffer in module.named_buffers(recurse=False):
            if leaf not in module._non_persistent_buffers_set:
                yield f"{prefix}.{leaf}" if prefix else leaf, buffer


def restore(model: nn.Module, path: Path) -> None:
    """Give a model the values of a saved file."""
    values = load_file(path)
    for name, tensor in saved_tensors(model).items():
        tensor.data = saved_value(values, name, tensor.shape)  # not copied: a buffer may be expanded
