"""PyTorch behind Keras: tensors over shared memory, autograd, nothing compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from unisono.frameworks.protocol import Array

NAME = "PyTorch"
TENSORS = (torch.Tensor, torch.nn.Parameter)
NEUTRAL: tuple[str, ...] = ()


def version() -> str:
    """See `Backend.version`."""
    return f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"


def pin(threads: int) -> None:
    """See `Backend.pin`."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if threads > 1:  # else the backward pass of a lookup adds in whatever order threads come
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def warn_of_threads() -> None:
    """Nothing: threads can be set at any time."""


def seed(number: int) -> None:
    """See `Backend.seed`."""
    torch.default_generator.manual_seed(number)


def seed_eager(number: int) -> None:
    """See `Backend.seed_eager`."""
    seed(number)


def eagerly(function: Callable[[], Any]) -> Any:
    """See `Backend.eagerly`."""
    with torch.no_grad():
        return function()


def alias(array: Array) -> Any:
    """See `Backend.alias`."""
    return torch.from_numpy(array)


def tensor(array: Array) -> Any:
    """See `Backend.tensor`."""
    return torch.tensor(array)


def array(tensor: Any) -> Array:
    """See `Backend.array`."""
    values: Array = tensor.detach().numpy()
    return values


def attach(variable: Any, tensor: Any) -> None:
    """See `Backend.attach`."""
    variable.value.data = tensor


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """See `Backend.compiled`: run as it is."""
    decorated: Callable[..., Any] = torch.no_grad()(function)
    return decorated


def with_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    """See `Backend.with_gradients`."""

    def run(parameters: list[Any], *rest: Any) -> Any:
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        total, result = function(leaves, *rest)
        if not total.requires_grad:
            return result, [None] * len(leaves)
        return result, torch.autograd.grad(total, leaves, allow_unused=True)

    return run
