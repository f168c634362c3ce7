"""Consecutive operations as one Python function: nothing is looked up while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unisono.frameworks.nests import leaves
from unisono.frameworks.pytorch.stages.operations import BufferPlace, InputLeaf, Operation, Path, Slot


class Source:
    """Writes the text of such a function and gathers its constants."""

    def __init__(self) -> None:
        self.constants: dict[str, Any] = {}

    def constant(self, value: Any) -> str:
        """A name for a constant."""
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def text(self, value: Any) -> str:
        """An expression for a nest of slots, parts of the inputs, and constants."""
        if isinstance(value, Slot):
            return f"v{value.number}"
        if isinstance(value, InputLeaf):
            return "inputs" + _keys(value.path)
        if isinstance(value, BufferPlace):
            return f"{self.constant(value.holder)}[{value.key!r}]"
        if value is None or isinstance(value, bool) or type(value) in (int, str):
            return repr(value)
        if not any(isinstance(leaf, Slot | InputLeaf | BufferPlace) for _, leaf in leaves(value)):
            return self.constant(value)
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{key!r}: {self.text(item)}" for key, item in value.items()) + "}"
        if isinstance(value, slice):
            return f"slice({self.text(value.start)}, {self.text(value.stop)}, {self.text(value.step)})"
        items = "".join(f"{self.text(item)}, " for item in value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return f"{self.constant(type(value))}({items})"
        return f"({items})" if isinstance(value, tuple) else f"[{items}]"

    def call(self, operation: Operation, last_used: Sequence[int]) -> list[str]:
        """The lines of one operation.

        Args:
            operation: which one.
            last_used: slots that nothing after it needs.
        """
        arguments = [self.text(argument) for argument in operation.args]
        if all(str(key).isidentifier() for key in operation.kwargs):
            arguments += [f"{key}={self.text(item)}" for key, item in operation.kwargs.items()]
        made = f"{self.constant(operation.call)}({', '.join(arguments)})"
        if [path for _, path in operation.results] == [()]:
            lines = [f"v{operation.results[0][0].number} = {made}"]
        elif operation.results:
            lines = [f"r = {made}", *(f"v{slot.number} = r{_keys(path)}" for slot, path in operation.results), "del r"]
        else:
            lines = [made]
        return [*lines, *(f"del v{number}" for number in last_used)]


def used_slots(value: Any) -> set[int]:
    """The numbers of the slots in a nest."""
    return {leaf.number for _, leaf in leaves(value) if isinstance(leaf, Slot)}


def compiled(operations: Sequence[Operation], taken: Sequence[int], given: Any) -> Callable[..., Any]:
    """A function (inputs, *values of the slots taken) → what is given.

    Args:
        operations: in order.
        taken: slots that it starts with.
        given: a nest of slots, parts of the inputs and constants.
    """
    source, kept = Source(), used_slots(given)
    later, lines = set(kept), []
    for operation in reversed(operations):
        used = used_slots((operation.args, operation.kwargs)) | {slot.number for slot, _ in operation.results}
        lines.append(source.call(operation, sorted(used - later)))
        later |= used
    body = [line for block in reversed(lines) for line in block]
    body.append(f"return {source.text(given)}")
    head = ", ".join(["inputs", *(f"v{number}" for number in taken)])
    namespace = dict(source.constants)
    exec(compile(f"def replay({head}):\n " + "\n ".join(body), "<replay>", "exec"), namespace)
    function: Callable[..., Any] = namespace["replay"]
    return function


def _keys(path: Path) -> str:
    return "".join(f"[{key!r}]" for key in path)
