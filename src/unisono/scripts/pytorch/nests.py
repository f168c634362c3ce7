"""Nests of arguments and outputs as leaves: PyTorch's, and dataclasses and dictionaries of a person's own classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any

from torch.utils._pytree import TreeSpec, register_pytree_node, tree_flatten, tree_map

from unisono.trees.marks import attributes


class _Opened:
    """An object in whose place its members are looked at."""

    def __init__(self, value: Any) -> None:
        self.value = value


def flat(nest: Any) -> tuple[list[Any], TreeSpec]:
    """The leaves of a nest, and what `tree_unflatten` makes it of again.

    >>> class Output(dict):
    ...     pass
    >>> leaves, spec = flat([Output(loss=1, others=(2, 3))])
    >>> leaves, spec.unflatten(leaves)
    ([1, 2, 3], [{'loss': 1, 'others': (2, 3)}])
    """
    return tree_flatten(tree_map(_opened, nest))


def _opened(leaf: Any) -> Any:
    is_open = isinstance(leaf, dict) or (is_dataclass(leaf) and not isinstance(leaf, type))
    return _Opened(leaf) if is_open else leaf


def _members(opened: _Opened) -> tuple[list[Any], Any]:
    """Items and attributes; what stands in both stands once."""
    value = opened.value
    items = list(value.items()) if isinstance(value, dict) else []
    numbers = {id(item): number for number, (_, item) in enumerate(items)}
    held = attributes(value)
    own = {name: each for name, each in held.items() if id(each) not in numbers}
    alike = tuple((name, numbers[id(each)]) for name, each in held.items() if id(each) in numbers)
    members = [tree_map(_opened, member) for member in [*(item for _, item in items), *own.values()]]
    return members, (type(value), tuple(key for key, _ in items), tuple(own), alike)


def _made(members: Iterable[Any], context: Any) -> Any:
    kind, keys, names, alike = context
    members = list(members)
    made = kind.__new__(kind)
    for key, member in zip(keys, members, strict=False):
        _base(kind).__setitem__(made, key, member)
    for name, member in zip(names, members[len(keys) :], strict=True):
        object.__setattr__(made, name, member)
    for name, number in alike:
        object.__setattr__(made, name, members[number])
    return made


def _base(kind: type) -> Any:
    """The class whose items these are, whatever its heirs do when one is set."""
    return next(each for each in kind.__mro__ if each.__module__ in ("builtins", "collections"))


register_pytree_node(_Opened, _members, _made, serialized_type_name="unisono.Opened")
