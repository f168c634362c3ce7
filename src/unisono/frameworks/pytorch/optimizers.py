"""torch.optim classes run on pieces: what kind each is, what state it has, and the same class over other tensors."""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from unisono.errors import UsageError
from unisono.frameworks.jobs import kind_by_probe, plain
from unisono.frameworks.protocol import StateSpec
from unisono.frameworks.pytorch.stages.travel import dtype_name
from unisono.gradients.regions import Kind

ELEMENTWISE = {
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad,
    torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adadelta, torch.optim.Adamax,
}  # fmt: skip
PER_TENSOR = {getattr(torch.optim, name) for name in ("Adafactor", "Muon") if hasattr(torch.optim, name)}
"""Muon came with PyTorch 2.9."""
FUSED = {torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad}

Optimizer = torch.optim.Optimizer


def prepare(built: object) -> tuple[list[Any], list[dict[str, Any]]]:
    """Check what the job's `optimizer` returned and choose the implementation path.

    The path is a property of the job, never of the world: paths differ in bits. Where the job leaves it open and
    the class has a fused CPU kernel, that is used, because it is the fastest.

    Returns:
        The optimizers, and the groups whose path was chosen here.

    Raises:
        UsageError: not an optimizer, a closure optimizer, or overlapping parameters.

    A wrapper need not be a `torch.optim.Optimizer`: what has `param_groups` and `step()` is one.
    """
    optimizers: list[Any] = list(built) if isinstance(built, list | tuple) else [built]
    seen: set[int] = set()
    chosen: list[dict[str, Any]] = []
    for optimizer in optimizers:
        if not (isinstance(optimizer, Optimizer) or _is_like_one(optimizer)):
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
                chosen.append(group)
    return optimizers, chosen


def choose_on(device: torch.device, optimizers: Sequence[Any], chosen: Sequence[dict[str, Any]]) -> None:
    """Leave the choice of a path to torch where a class has no fused kernel for a GPU.

    Args:
        device: where parameters will lie.
        optimizers, chosen: what `prepare` gave.
    """
    for optimizer in optimizers if device.type == "cuda" else ():
        kernel = f"aten::_fused_{type(optimizer).__name__.lower()}_"
        for group in optimizer.param_groups:
            if any(group is each for each in chosen):
                there = torch._C._dispatch_has_kernel_for_dispatch_key(kernel, "CUDA")
                group["fused"] = True if there else None


def _is_like_one(optimizer: Any) -> bool:
    groups = getattr(optimizer, "param_groups", None)
    return isinstance(groups, list) and callable(getattr(optimizer, "step", None)) and not isinstance(optimizer, type)


def clone(master: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    """An optimizer of the same class and settings over other tensors, with an empty state."""
    made = master.__class__.__new__(master.__class__)
    held = {name: value for name, value in vars(master).items() if name not in ("state", "param_groups", "step")}
    vars(made).update(held)
    made.state = defaultdict(dict)
    made.param_groups = groups
    return made


def bare_step(master: Optimizer) -> Callable[[Optimizer], Any]:
    """The class's `step` without what torch wraps around its own classes': records for its profiler, and hooks, of
    which there are none here (`kind_of`).

    A step is called for each chunk, and the wrappers take as long as the rest of it besides the arithmetic.
    """
    step = type(master).step
    return inspect.unwrap(step) if type(master) in ELEMENTWISE | PER_TENSOR else step


def settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group without its parameters."""
    return {name: value for name, value in group.items() if name not in ("params", "param_names")}


def plain_settings(master: Optimizer) -> dict[str, Any]:
    """The class and the plain values of its groups, to compare one job with another."""
    return {
        "class": type(master).__name__,
        "groups": [plain(settings(group)) for group in master.param_groups],
    }


def _probe(master: Optimizer, group: Mapping[str, Any], tensor: Tensor) -> Optimizer:
    """Run the class on a stand-in of a group's parameters and return the optimizer with its state."""
    optimizer = clone(master, [{**settings(group), "params": [tensor]}])
    tensor.grad = torch.linspace(-1, 1, tensor.numel(), dtype=tensor.dtype).reshape(tensor.shape)
    optimizer.step()
    return optimizer


def _stand_in(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    count = int(np.prod(shape, dtype=np.int64))
    return torch.linspace(0.5, 2, count, dtype=dtype).reshape(tuple(shape))


def _is_elementwise(master: Optimizer, group: Mapping[str, Any]) -> bool:
    """Whether three steps on halves give the bits of three steps on the whole, and each element has its own state."""
    whole = _stand_in((192,), torch.float32)
    halves = [whole[:64].clone(), whole[64:].clone()]
    for tensors in ([whole], halves):
        optimizer = clone(master, [{**settings(group), "params": tensors}])
        alike = None if type(master) in ELEMENTWISE else _outside(optimizer)
        places = [tensor.data_ptr() for tensor in tensors]
        for step in range(3):
            gradient = torch.linspace(-1, 1 + step, 192, dtype=torch.float32)
            for tensor, part in zip(
                tensors, torch.split(gradient, [tensor.numel() for tensor in tensors]), strict=True
            ):
                tensor.grad = part.clone()
            optimizer.step()
        if alike is not None and _outside(optimizer) != alike:
            return False
        if [tensor.data_ptr() for tensor in tensors] != places:  # it puts new tensors into parameters
            return False
        if not all(_is_own(value, tensor) for tensor in tensors for value in optimizer.state[tensor].values()):
            return False
    return torch.equal(whole, torch.cat(halves))


def _outside(optimizer: Optimizer) -> list[str]:
    """What an optimizer keeps that belongs to no element: it must not change."""
    held = {name: value for name, value in vars(optimizer).items() if name not in ("state", "param_groups")}
    return [repr(held), *(repr(settings(group)) for group in optimizer.param_groups)]


def _is_own(value: Any, tensor: Tensor) -> bool:
    """Whether a piece of state is one of each element, or a number that is the same for all."""
    if isinstance(value, Tensor):
        return not value.dim() or value.shape == tensor.shape
    return value is None or isinstance(value, int | float)


def kind_of(master: Any) -> Kind:
    """How the update of this optimizer may be cut (DESIGN: elementwise, per tensor, whole model).

    A class that is not listed may say of itself that it acts element by element, by an attribute `elementwise = True`;
    the same probe decides. What hooks into a step, or replaces it, sees the whole of it.
    """
    hooks = [
        getattr(master, "_optimizer_step_pre_hooks", None), getattr(master, "_optimizer_step_post_hooks", None),
        _global_optimizer_pre_hooks, _global_optimizer_post_hooks,
    ]  # fmt: skip
    if any(hooks) or "step" in vars(master) or not isinstance(master, Optimizer):
        return "whole"
    if type(master) in ELEMENTWISE or getattr(master, "elementwise", False) is True:
        name = type(master).__name__
        return kind_by_probe(name, all(_is_elementwise(master, group) for group in master.param_groups))
    return "tensor" if type(master) in PER_TENSOR else "whole"


SAMPLE = 4
"""Elements along each axis of the tensors that stand for parameters in the probe of an elementwise optimizer."""

State = Mapping[str, "tuple[tuple[int, ...], str] | Callable[[float], Any]"]
"""By key a state tensor's shape and dtype; of a number, what makes it of the float64 that it is kept as."""


def state_of(
    master: Optimizer, kind: Kind, numbers: Mapping[int, int]
) -> tuple[StateSpec, Mapping[str, Callable[[float], Any]]]:
    """Find an optimizer's state by probing it: once for parameters that are alike, on few elements where it may be.

    Args:
        master: the job's optimizer.
        kind: how it may be cut: not "whole".
        numbers: id(parameter) → its number in the whole model.

    Returns:
        The state, and by key of each number what makes it.
    """
    alike: dict[tuple[Any, ...], State] = {}
    vectors: list[tuple[str, int, Sequence[int], str]] = []
    scalars: dict[str, Callable[[float], Any]] = {}
    for index, group in enumerate(master.param_groups):
        for parameter in group["params"]:
            if kind == "tensor" and not parameter.numel():  # nothing of it is ever updated
                continue
            for key, value in _alike(master, kind, index, parameter, alike).items():
                if isinstance(value, tuple):
                    vectors.append((key, numbers[id(parameter)], *value))
                else:
                    scalars.setdefault(key, value)
    return StateSpec.of(vectors, scalars), scalars


def _alike(master: Optimizer, kind: Kind, index: int, parameter: Tensor, alike: dict[tuple[Any, ...], State]) -> State:
    """The state of a parameter of a group, from the probe of those that are alike."""
    shape = tuple(parameter.shape) or (1,)
    probed = tuple(min(size, SAMPLE) for size in shape) if kind == "elementwise" else shape
    place = index, probed, parameter.dtype
    if place not in alike:
        tensor = _stand_in(probed, parameter.dtype)
        alike[place] = _kept(_probe(master, master.param_groups[index], tensor), tensor)
    if kind != "elementwise":
        return alike[place]
    lying = tuple(parameter.shape)
    return {key: (lying, value[1]) if isinstance(value, tuple) else value for key, value in alike[place].items()}


def _kept(optimizer: Optimizer, tensor: Tensor) -> State:
    """What an optimizer keeps of a tensor."""
    found: dict[str, Any] = {}
    for key, value in optimizer.state[tensor].items():
        if isinstance(value, Tensor) and value.dim():
            found[key] = tuple(value.shape), dtype_name(value)
        elif isinstance(value, Tensor):
            found[key] = functools.partial(torch.tensor, dtype=value.dtype)
        elif value is not None:
            found[key] = type(value)
    return found


def initial_state(master: Optimizer) -> Sequence[tuple[Tensor, Mapping[str, Any]]]:
    """State that the class makes on construction (Adagrad), by parameter."""
    return [(p, master.state[p]) for group in master.param_groups for p in group["params"] if master.state.get(p)]
