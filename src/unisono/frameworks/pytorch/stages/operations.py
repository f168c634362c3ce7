"""A recorded model: operations in program order, and what they refer to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
