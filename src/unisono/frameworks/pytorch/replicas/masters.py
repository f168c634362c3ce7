"""The job's own optimizers over a replica's whole parameters: nothing is cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unisono.frameworks.protocol import Array, Values
from unisono.frameworks.pytorch.chunks import Numbers
from unisono.frameworks.pytorch.optimizers import bare_step
from unisono.frameworks.pytorch.stages.travel import as_array, as_tensor


class Master:
    """An optimizer whose state is tensors and numbers by parameter.

    Args:
        master: the job's.
        numbers: of its state, what makes each.
        number_of: id(parameter) → its number in the whole model.
    """

    def __init__(self, master: Any, numbers: Numbers, number_of: Mapping[int, int]) -> None:
        self._master, self._numbers = master, numbers
        self._parameters = [
            (number_of[id(parameter)], parameter, group)
            for group in master.param_groups for parameter in group["params"]
        ]  # fmt: skip
        self._step = bare_step(master)

    def load(self, values: Values, updates: int) -> None:
        """See `Replica.load`."""
        scalars = values.scalars(updates)
        self._master.state.clear()
        for number, parameter, group in self._parameters:
            has_state, *row = scalars[number].tolist()
            if not has_state:
                continue
            state = {
                key: _shaped(as_tensor(array, torch.from_numpy(array).dtype), parameter)
                for key, array in values.state(number).items()
            }
            away = group.get("capturable") or group.get("fused")
            for (key, made), value in zip(self._numbers.items(), row, strict=False):
                found = made(value)
                state[key] = found.to(parameter.device) if away and isinstance(found, Tensor) else found
            self._master.state[parameter] = state

    def store(self, values: Values, updates: int) -> None:
        """See `Replica.store`."""
        scalars = values.scalars(updates)
        for number, parameter, _ in self._parameters:
            state: Mapping[str, Any] = self._master.state.get(parameter) or {}
            for key, array in values.state(number).items():
                _leave(state.get(key), array)
            scalars[number] = 0
            if state:
                row = [float(state.get(key) or 0.0) for key in self._numbers]
                scalars[number][: 1 + len(row)] = [1.0, *row]

    def step(self, gradients: Mapping[int, Tensor]) -> None:
        """One step, with the gradients that there are, by parameter number."""
        for number, parameter, _ in self._parameters:
            parameter.grad = gradients.get(number)
        try:
            with torch.no_grad():
                self._step(self._master)
        finally:
            for _, parameter, _ in self._parameters:
                parameter.grad = None


def _shaped(values: Tensor, parameter: Tensor) -> Tensor:
    """A state tensor of its own on the parameter's device; beside a parameter without axes it has none either."""
    made = torch.empty_like(values, device=parameter.device).copy_(values)
    return made.view(()) if not parameter.dim() and made.numel() == 1 else made


def _leave(values: Any, array: Array) -> None:
    array[...] = 0 if values is None else as_array(values.cpu()).reshape(array.shape)
