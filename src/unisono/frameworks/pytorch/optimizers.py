"""torch.optim classes run on pieces: what kind each is, what state it has, and the same class over other tensors."""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from unisono.errors import UsageError
from unisono.frameworks.protocol import StateSpec
from unisono.gradients.regions import Kind

ELEMENTWISE = {
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad,
    torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adadelta, torch.optim.Adamax,
}  # fmt: skip
PER_TENSOR = {getattr(torch.optim, name) for name in ("Adafactor", "Muon") if hasattr(torch.optim, name)}
"""Muon came with PyTorch 2.9."""
FUSED = {torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad}

Optimizer = torch.optim.Optimizer


def prepare(built: object) -> list[Optimizer]:
    """Check what the job's `optimizer` returned and choose the implementation path.

    The path is a property of the job, never of the world: paths differ in bits. Where the job leaves it open and
    the class has a fused CPU kernel, that is used, because it is the fastest.

    Raises:
        UsageError: not an optimizer, a closure optimizer, or overlapping parameters.
    """
    optimizers: list[Any] = list(built) if isinstance(built, list | tuple) else [built]
    seen: set[int] = set()
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise UsageError(
                "job.optimizer must return a torch optimizer or a list of them; "
                f"received {type(optimizer).__name__}. Write optimizer=lambda model: "
                "torch.optim.AdamW(model.parameters())."
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UsageError(
                "an optimizer may evaluate the model only once a step; received LBFGS, which calls a closure "
                "several times. Use an optimizer without a closure (SGD, AdamW, Muon …)."
            )
        for group in optimizer.param_groups:
            numbers = {id(parameter) for parameter in group["params"]}
            if seen & numbers:
                raise UsageError(
                    "each parameter belongs to one optimizer; two of job.optimizer's share some. "
                    "Give each of them parameters of its own."
                )
            seen |= numbers
            untouched = group.get("fused", False) is None and group.get("foreach", False) is None
            if type(optimizer) in FUSED and untouched and not group.get("differentiable"):
                group["fused"] = True
    return optimizers


def clone(master: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    """An optimizer of the same class and settings over other tensors, with an empty state."""
    made = master.__class__.__new__(master.__class__)
    held = {name: value for name, value in vars(master).items() if name not in ("state", "param_groups", "step")}
    vars(made).update(held)
    made.state = defaultdict(dict)
    made.param_groups = groups
    return made


def bare_step(master: Optimizer) -> Callable[[Optimizer], Any]:
    """The class's `step` without what torch wraps around its own classes': records for its profiler, and hooks.

    A step is called for each chunk, and the wrappers take as long as the rest of it besides the arithmetic.
    """
    hooks = (
        master._optimizer_step_pre_hooks, master._optimizer_step_post_hooks,
        _global_optimizer_pre_hooks, _global_optimizer_post_hooks,
    )  # fmt: skip
    step = type(master).step
    return step if any(hooks) or type(master) not in ELEMENTWISE | PER_TENSOR else inspect.unwrap(step)


def settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group without its parameters."""
    return {name: value for name, value in group.items() if name not in ("params", "param_names")}


def plain_settings(master: Optimizer) -> dict[str, Any]:
    """The class and the plain values of its groups, to compare one job with another."""
    return {
        "class": type(master).__name__,
        "groups": [
            {name: value if isinstance(value, int | float | str | None) else repr(value)
             for name, value in settings(group).items()}
            for group in master.param_groups
        ],
    }  # fmt: skip


def _probe(master: Optimizer, tensors: Sequence[tuple[int, torch.Tensor]]) -> Optimizer:
    """Run the class on stand-in tensors (group index, values) and return the optimizer with its state."""
    groups = [{**settings(group), "params": []} for group in master.param_groups]
    for index, tensor in tensors:
        groups[index]["params"].append(tensor)
    optimizer = clone(master, [group for group in groups if group["params"]])
    for _, tensor in tensors:
        tensor.grad = torch.linspace(-1, 1, tensor.numel(), dtype=tensor.dtype).reshape(tensor.shape)
    optimizer.step()
    return optimizer


def _stand_in(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    count = int(np.prod(shape, dtype=np.int64))
    return torch.linspace(0.5, 2, count, dtype=dtype).reshape(tuple(shape))


def _is_elementwise(master: Optimizer, group: Mapping[str, Any]) -> bool:
    """Whether three steps on halves give the bits of three steps on the whole, and each element has its own state."""
    whole, left = _stand_in((192,), torch.float32), _stand_in((192,), torch.float32)
    halves = left[:64].clone(), left[64:].clone()
    grads = [torch.linspace(-1, 1 + step, 192) for step in range(3)]
    for tensors in ([whole], list(halves)):
        optimizer = clone(master, [{**settings(group), "params": tensors}])
        for grad in grads:
            parts = [grad] if len(tensors) == 1 else [grad[:64].clone(), grad[64:].clone()]
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.grad = part
            optimizer.step()
        for tensor in tensors:
            kept = [v for v in optimizer.state[tensor].values() if isinstance(v, torch.Tensor) and v.dim()]
            if any(value.shape != tensor.shape for value in kept):
                return False
    return torch.equal(whole, torch.cat(halves))


def kind_of(master: Optimizer) -> Kind:
    """How the update of this optimizer may be cut (DESIGN: elementwise, per tensor, whole model)."""
    if type(master) in ELEMENTWISE:
        if all(_is_elementwise(master, group) for group in master.param_groups):
            return "elementwise"
        warnings.warn(f"{type(master).__name__} does not act element by element here: one slot updates the whole model",
                      stacklevel=2)  # fmt: skip
        return "whole"
    return "tensor" if type(master) in PER_TENSOR else "whole"


SAMPLE = 4
"""Elements along each axis of the tensors that stand for parameters in the probe of an elementwise optimizer."""

State = Mapping[str, tuple[tuple[int, ...], str] | None]
"""By key a state tensor's shape and dtype; None of a number."""


def state_of(master: Optimizer, kind: Kind, numbers: Mapping[int, int]) -> StateSpec:
    """Find the optimizer's state by probing it: once for parameters that are alike, on few elements where it may be.

    Args:
        master: the job's optimizer.
        kind: how it may be cut.
        numbers: id(parameter) → its number in the whole model.
    """
    members = [(index, p) for index, group in enumerate(master.param_groups) for p in group["params"]]
    if kind == "whole":
        tensors = [(index, _stand_in(p.shape, p.dtype)) for index, p in members]
        probed = _probe(master, tensors)
        found = [_kept(probed, tensor) for _, tensor in tensors]
        changing = _changing_settings(master, probed)
    else:
        alike: dict[tuple[Any, ...], State] = {}
        found, changing = [_alike(master, kind, index, p, alike) for index, p in members], []
    vectors: dict[str, dict[int, tuple[tuple[int, ...], str]]] = {}
    scalars: list[str] = []
    for (_, parameter), state in zip(members, found, strict=True):
        for key, value in state.items():
            if value is not None:
                vectors.setdefault(key, {})[numbers[id(parameter)]] = value
            elif key not in scalars:
                scalars.append(key)
    return StateSpec(vectors, (*scalars, *changing))


def _alike(
    master: Optimizer, kind: Kind, index: int, parameter: torch.Tensor, alike: dict[tuple[Any, ...], State]
) -> State:
    """The state of a parameter of a group, from the probe of those that are alike."""
    shape = tuple(parameter.shape)
    probed = tuple(min(size, SAMPLE) for size in shape) if kind == "elementwise" else shape
    place = index, probed, parameter.dtype
    if place not in alike:
        tensor = _stand_in(probed, parameter.dtype)
        alike[place] = _kept(_probe(master, [(index, tensor)]), tensor)
    if kind != "elementwise":
        return alike[place]
    return {key: value and (shape, value[1]) for key, value in alike[place].items()}


def _kept(optimizer: Optimizer, tensor: torch.Tensor) -> State:
    """What an optimizer keeps of a tensor that can be kept."""
    found: dict[str, tuple[tuple[int, ...], str] | None] = {}
    for key, value in optimizer.state[tensor].items():
        if isinstance(value, torch.Tensor) and value.dim():
            found[key] = tuple(value.shape), str(value.dtype).removeprefix("torch.")
        elif isinstance(value, torch.Tensor | int | float):
            found[key] = None
    return found


GROUP = "group."
"""Begins the name of a scalar that the optimizer keeps in its groups."""


def _changing_settings(master: Optimizer, stepped: Optimizer) -> list[str]:
    """Numbers that the optimizer keeps in its groups (Prodigy's `d`): kept as scalars of the group's first tensor."""
    held = [group for group in master.param_groups if group["params"]]
    names = {
        name
        for before, after in zip(held, stepped.param_groups, strict=True)
        for name, value in settings(after).items()
        if isinstance(value, int | float) and value != before.get(name)
    }
    return [GROUP + name for name in sorted(names)]


def initial_state(master: Optimizer) -> Sequence[tuple[torch.Tensor, Mapping[str, Any]]]:
    """State that the class makes on construction (Adagrad), by parameter."""
    return [(p, master.state[p]) for group in master.param_groups for p in group["params"] if master.state.get(p)]
