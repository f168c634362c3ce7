"""PyTorch behind Keras: tensors over shared memory, autograd, nothing compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from unisono.frameworks.keras.backends import Backend, Function
from unisono.frameworks.protocol import Array
from unisono.frameworks.pytorch import determinism


class Here(Backend):
    """See `Backend`. Threads can be set at any time."""

    NAME = "PyTorch"
    TENSORS = (torch.Tensor, torch.nn.Parameter)
    alias = staticmethod(torch.from_numpy)
    tensor = staticmethod(torch.tensor)
    pin = staticmethod(determinism.pin)

    def version(self) -> str:
        """See `Backend.version`."""
        return f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"

    def seed(self, number: int) -> None:
        """See `Backend.seed`."""
        torch.default_generator.manual_seed(number)

    seed_eager = seed

    def eagerly(self, function: Callable[[], Any]) -> Any:
        """See `Backend.eagerly`."""
        with torch.no_grad():
            return function()

    def array(self, tensor: Any) -> Array:
        """See `Backend.array`."""
        values: Array = tensor.detach().numpy()
        return values

    def attach(self, variable: Any, tensor: Any) -> None:
        """See `Backend.attach`."""
        variable.value.data = tensor

    def compiled(self, function: Function) -> Function:
        """See `Backend.compiled`: run as it is."""
        return torch.no_grad()(function)

    def with_gradients(self, function: Function, variables: Sequence[Any] = ()) -> Function:
        """See `Backend.with_gradients`."""

        def run(parameters: list[Any], *rest: Any) -> Any:
            leaves = [parameter.detach().requires_grad_() for parameter in parameters]
            total, result = function(leaves, *rest)
            if not total.requires_grad:
                return result, [None] * len(leaves)
            return result, torch.autograd.grad(total, leaves, allow_unused=True)

        return run
