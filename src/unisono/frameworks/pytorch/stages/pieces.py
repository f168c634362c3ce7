"""A job's own stages as a recording: one operation each, whatever they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from unisono.errors import UsageError
from unisono.frameworks.nests import leaves, mapped
from unisono.frameworks.pytorch.stages import generators
from unisono.frameworks.pytorch.stages.boundaries import barred_by_use
from unisono.frameworks.pytorch.stages.operations import InputLeaf, Operation, Recording, Slot, place
from unisono.frameworks.pytorch.stages.uses import Uses


class _Noting(TorchFunctionMode):
    """Enters what runs inside it as uses of one operation."""

    def __init__(self, uses: Uses, operation: Operation) -> None:
        super().__init__()
        self._uses, self._operation = uses, operation

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._uses.note(self._operation, (args, kwargs))
        return func(*args, **(kwargs or {}))


def record_pieces(
    pieces: Sequence[Callable[..., Any]], model: torch.nn.Module, inputs: Any, uses: Uses, cached_casts: bool
) -> Recording:
    """Run a job's own stages one after another.

    Args:
        pieces: the stages.
        model, inputs: what the first is given.
        uses: of the model.
        cached_casts: see `barred_by_use`.

    Raises:
        UsageError: one changes in place what it receives.
    """
    operations, value = [], inputs
    for number, piece in enumerate(pieces):
        taken = Slot(number - 1) if number else InputLeaf(())
        name = f"stages[{number}]"
        operation = Operation(piece, (model, taken), {}, [(Slot(number), ())], name, name, place())
        states = generators.save()
        try:
            with _Noting(uses, operation):
                value = piece(model, value)
        except RuntimeError as error:
            if "leaf Variable" not in str(error):
                raise
            raise UsageError(
                f"a stage may not change in place what it receives; {name} does ({error}). Let it make "
                "a new tensor: x.relu() instead of x.relu_()."
            ) from error
        for _, leaf in leaves(value):
            operation.parameters |= uses.reached(leaf)
        uses.changed_buffers(operation.buffers)
        operation.draws = generators.moved(states, generators.save())
        operations.append(operation)
        value = mapped(_received, value)
    barred = barred_by_use(operations, uses.written, cached_casts)
    return Recording(operations, Slot(len(pieces) - 1), {}, barred, frozenset(uses.written))


def _received(leaf: Any) -> Any:
    return leaf.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, torch.Tensor) else leaf
