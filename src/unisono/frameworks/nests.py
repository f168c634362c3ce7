"""Nested tuples, lists, mappings and slices: their leaves, and the same nest with other leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every leaf with the keys that lead to it; what is no tuple, list, mapping or slice is a leaf."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    elif isinstance(value, slice):
        yield from leaves({"start": value.start, "stop": value.stop, "step": value.step}, path)
    else:
        yield path, value


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same nest with every leaf changed."""
    if isinstance(value, Mapping):
        return {key: mapped(change, item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(mapped(change, item) for item in (value.start, value.stop, value.step)))
    if isinstance(value, tuple | list):
        items = [mapped(change, item) for item in value]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            # A named tuple; not by its constructor, for PackedSequence's looks at the tensors.
            return tuple.__new__(type(value), items)
        return tuple(items) if isinstance(value, tuple) else items
    return change(value)
