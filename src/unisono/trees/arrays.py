"""What a framework says of its arrays, so that a state of any shape can hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from unisono.values.arrays import Array


class Arrays(Protocol):
    """A framework's arrays and objects in a state."""

    def name(self, value: Any) -> str | None:
        """The name of a part of the job's model; None of anything else."""

    def named(self, name: str) -> Any:
        """The part of the model that has this name."""

    def holds(self, value: Any) -> bool:
        """Whether a value is an array of the framework's that can be kept."""

    def mark(self, value: Any) -> Any:
        """Something that is another one once an array, or another part of the model, has changed; None of anything
        else."""

    def pack(self, held: Sequence[tuple[str, Any]]) -> tuple[list[Any], dict[str, Array]]:
        """Arrays by name as plain values and arrays of NumPy; what shares memory goes on sharing it."""

    def unpack(self, entries: Sequence[Any], arrays: Mapping[str, Array]) -> list[Any]:
        """What `pack` was given, in memory of its own."""

    def renewed(self, existing: Any, value: Any) -> Any:
        """`existing` with another array's memory, where it can have it, else that array."""

    def plain(self, value: Any) -> Any:
        """A constant of the framework's (a dtype) as a plain value; None of anything else."""

    def constant(self, plain: Any) -> Any:
        """The constant that `plain` gave."""

    def moments(self, value: Any) -> Any:
        """The state of a generator of random numbers of the framework's; None of anything else."""

    def resume(self, generator: Any, moments: Any) -> Any:
        """The generator in this state; a new one where there is none."""

    def groups(self, value: Any) -> Sequence[dict[str, Any]]:
        """The groups of settings of an optimizer; nothing of anything else."""

    def passing(self, value: Any) -> frozenset[str]:
        """Attributes of an object that are no state."""
