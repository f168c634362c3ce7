"""The tensors of a forward pass while it is recorded, by identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unisono.frameworks.nests import leaves, mapped
from unisono.frameworks.pytorch.stages.operations import InputLeaf, Operation, ReadsValueError, Slot, SlotFacts


def storage_of(tensor: Tensor) -> int:
    """The memory that a tensor lies in."""
    return int(tensor.untyped_storage()._cdata)


class Values:
    """What operations have made, and where the inputs' parts are.

    Args:
        inputs: the microbatch's.

    Attributes:
        created: storage → the operation that made it; -1: it is the inputs'.
        written: (storage, operation that has changed it in place), in program order.
    """

    def __init__(self, inputs: Any) -> None:
        tensors = [(path, leaf) for path, leaf in leaves(inputs) if isinstance(leaf, Tensor)]
        self._parts = {id(tensor): InputLeaf(path) for path, tensor in tensors}
        self.created = {storage_of(tensor): -1 for _, tensor in tensors}
        self.written: list[tuple[int, int]] = []
        self._alive: list[Any] = [inputs]
        self._slots: dict[int, Slot] = {}
        self._tensors: dict[int, Tensor] = {}
        self._constant: set[int] = set()
        self._shaped: set[int] = set()
        self._without_graph: dict[int, tuple[str, str, str]] = {}

    def keep(self, values: Any) -> None:
        """An identity is good as long as its object lives."""
        self._alive.append(values)

    def place_of(self, tensor: Tensor) -> Slot | InputLeaf | None:
        """The slot or the part of the inputs that holds a tensor.

        Raises:
            ReadsValueError: a graph that nobody has seen leads to it.
        """
        if tensor.grad_fn is not None and id(tensor) in self._without_graph:
            raise ReadsValueError(*self._without_graph[id(tensor)])
        return self._slots.get(id(tensor)) or self._parts.get(id(tensor))

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor, which is no parameter, is the same in every microbatch."""
        return id(tensor) in self._constant if id(tensor) in self._slots else id(tensor) not in self._parts

    def is_shaped(self, tensor: Tensor) -> bool:
        """Whether its shape follows from values."""
        return id(tensor) in self._shaped

    def enter(self, at: int, operation: Operation, made: Any, written: Any, constant: bool, shaped: bool) -> None:
        """What an operation has done.

        Args:
            at, operation: its index, and itself, whose results are completed.
            made: where in its result tensors lie, and these, the model's own left out.
            written: tensors that it has changed in place.
            constant: its results follow from no input, parameter or random number.
            shaped: their shapes follow from values.
        """
        for tensor in written:
            storage = storage_of(tensor)
            self.written.append((storage, at))
            self._without_graph.pop(id(tensor), None)
            if not constant:
                self._constant -= {id(other) for other in self._tensors.values() if storage_of(other) == storage}
        for path, tensor in made:
            if id(tensor) in self._slots or id(tensor) in self._parts:
                continue
            slot = Slot(len(self._slots))
            self._slots[id(tensor)], self._tensors[slot.number] = slot, tensor
            self.created.setdefault(storage_of(tensor), at)
            operation.results.append((slot, path))
            if constant and not tensor.requires_grad and "empty" not in operation.name:
                self._constant.add(id(tensor))
            if shaped:
                self._shaped.add(id(tensor))
            if not torch.is_grad_enabled():  # gets a graph later only from a torch.autograd.Function around it
                self._without_graph[id(tensor)] = (operation.scope, "a torch.autograd.Function", operation.place)

    def facts(self) -> dict[int, SlotFacts]:
        """Of each slot."""
        return {
            number: SlotFacts(tensor.dtype, tensor.requires_grad, tensor.numel() * tensor.element_size())
            for number, tensor in self._tensors.items()
        }

    def settled(self, operations: list[Operation], outputs: Any) -> tuple[list[Operation], list[int], Any]:
        """Put constants in the places of what makes them.

        Args:
            operations: in program order.
            outputs: the model's.

        Returns:
            The operations that are left, the new index of each, and the outputs.
        """
        written = {storage for storage, _ in self.written}
        by_slot = {slot: self._tensors[slot.number] for key, slot in self._slots.items() if key in self._constant}
        fixed = {slot: tensor for slot, tensor in by_slot.items() if storage_of(tensor) not in written}
        writers = {at for _, at in self.written}

        def settle(leaf: Any) -> Any:
            return fixed.get(leaf, leaf) if isinstance(leaf, Slot) else leaf

        kept: list[Operation] = []
        moved_to: list[int] = []
        for at, operation in enumerate(operations):
            moved_to.append(len(kept))
            fills = [pair for pair in operation.results if pair[0] not in fixed]
            if operation.results and not fills and not operation.draws and at not in writers:
                continue
            operation.args, operation.kwargs = mapped(settle, operation.args), mapped(settle, operation.kwargs)
            operation.results = fills
            kept.append(operation)
        return kept, moved_to, mapped(settle, outputs)
