"""A model's parameters and buffers, found in what its operations are given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from unisono.frameworks.nests import leaves
from unisono.frameworks.pytorch.stages import generators
from unisono.frameworks.pytorch.stages.operations import BufferPlace, Operation


class Uses:
    """Which parameters and buffers an operation uses.

    Args:
        parameters: the model's, by number.
        places: its buffers, by index.

    Attributes:
        written: the indices of the buffers that have changed.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], places: Sequence[BufferPlace]) -> None:
        self._numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
        self._places = places
        held = [(index, place.tensor) for index, place in enumerate(places) if place.tensor is not None]
        self._known = {index: tensor.clone() for index, tensor in held}
        self._indices = {id(tensor): index for index, tensor in held}
        self.written: set[int] = set()

    def note(self, operation: Operation, values: Any) -> None:
        """Enter those in a nest of values."""
        for _, leaf in leaves(values):
            if id(leaf) in self._numbers:
                operation.parameters.add(self._numbers[id(leaf)])
            elif id(leaf) in self._indices:
                operation.buffers.add(self._indices[id(leaf)])

    def is_parameter(self, value: Any) -> bool:
        """Whether it is one of the parameters."""
        return id(value) in self._numbers

    def holds(self, value: Any) -> bool:
        """Whether it is one of the parameters or buffers."""
        return id(value) in self._numbers or id(value) in self._indices

    def place_of(self, value: Any) -> BufferPlace | None:
        """Where it lies, if it is one of the buffers."""
        index = self._indices.get(id(value))
        return None if index is None else self._places[index]

    def changed_buffers(self, used: set[int]) -> list[torch.Tensor]:
        """Those of the used buffers that have changed. Their values tell: BatchNorm leaves the version as it is."""
        changed = []
        for index in used:
            now = self._places[index].tensor
            if not torch.equal(now, self._known[index]):
                self._known[index] = now.clone()
                self.written.add(index)
                changed.append(now)
        return changed

    def reached(self, value: Any) -> set[int]:
        """The numbers of the parameters that autograd leads to."""
        waiting, seen = [value.grad_fn] if isinstance(value, torch.Tensor) else [], set[Any]()
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [following for following, _ in node.next_functions]
        reached = (self._numbers.get(id(getattr(node, "variable", None))) for node in seen)
        return {number for number in reached if number is not None}


@contextlib.contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """A block after which generators and buffers are as they were."""
    states = generators.save()
    held = [(m._buffers, k, b, b.clone()) for m in model.modules() for k, b in m._buffers.items() if b is not None]
    try:
        yield
    finally:
        generators.load(states)
        with torch.no_grad():
            for buffers, key, buffer, value in held:
                buffer.data.copy_(value)  # `.data`: graphs that hold the buffer do not take it for changed
                buffers[key] = buffer
