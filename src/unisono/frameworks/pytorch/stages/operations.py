"""A recorded model: operations in program order, and what they refer to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from unisono.frameworks.pytorch.stages.generators import KINDS

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Slot:
    """A place for a value that an operation made."""

    number: int


@dataclass(frozen=True)
class InputLeaf:
    """A part of the batch's inputs: every stage has it."""

    path: Path


@dataclass(frozen=True)
class BufferPlace:
    """Where a module holds a buffer; which tensor lies there changes from microbatch to microbatch."""

    holder: dict[str, Any]
    key: str

    @property
    def tensor(self) -> Any:
        """The one that lies there now."""
        return self.holder[self.key]


@dataclass
class Operation:
    """One call.

    Attributes:
        call: what is called.
        args, kwargs: nests whose leaves are slots, parts of the inputs, or constants (parameters among them).
        results: the slots that its result fills, and where in the result their values lie.
        name, scope, place: what it is called, the module that it lies in, and its file and line.
        parameters, buffers: the numbers of those that it uses.
        draws: the random generators that it moved.
    """

    call: Callable[..., Any]
    args: Any
    kwargs: Any
    results: list[tuple[Slot, Path]]
    name: str
    scope: str
    place: str
    parameters: set[int] = field(default_factory=set)
    buffers: set[int] = field(default_factory=set)
    draws: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class SlotFacts:
    """Of one slot while recording: dtype, whether it needs a gradient, and its bytes."""

    dtype: Any
    needs: bool
    size: int


@dataclass
class Recording:
    """A model's forward pass.

    Attributes:
        operations: in program order.
        outputs: a nest of slots and constants.
        facts: per slot number; without an entry its value is any nest, as in a job's own stages.
        written: the indices of the buffers that it changes.
        barred: boundary → why the model can't be cut there (boundary p lies before operation p).
    """

    operations: list[Operation]
    outputs: Any
    facts: dict[int, SlotFacts]
    barred: dict[int, str]
    written: frozenset[int]

    def parameters(self, first: int = 0, last: int | None = None) -> set[int]:
        """The numbers of those that some of the operations use."""
        return set().union(*(operation.parameters for operation in self.operations[first:last]))

    def buffers(self, first: int = 0, last: int | None = None) -> set[int]:
        """The indices of those that some of the operations use."""
        return set().union(*(operation.buffers for operation in self.operations[first:last]))

    def draws(self, first: int, last: int) -> tuple[str, ...]:
        """The generators that some of the operations move."""
        moved = set[str]().union(*(operation.draws for operation in self.operations[first:last]))
        return tuple(kind for kind in KINDS if kind in moved)


class ReadsValueError(Exception):
    """The model reads a value while it computes, so a recording of it holds for this microbatch only.

    Args:
        scope: the module in which it does so ("" for the model itself).
        what: the operation.
        place: its file and line.
    """

    def __init__(self, scope: str, what: str, place: str) -> None:
        super().__init__(what)
        self.scope, self.what, self.place = scope, what, place


def place() -> str:
    """The innermost line of the user's own code."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torch/" not in file and "/unisono/frameworks/" not in file:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "the model's forward"
