"""What a tree may be made of. Files may hold anything: all of a tree is checked before any of it is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np

from unisono.trees import marks
from unisono.trees.references import Classes
from unisono.trees.writer import DICTS, SEQUENCES
from unisono.values.arrays import Array
from unisono.values.text import excerpt
from unisono.values.untrusted import Malformed, Maybe, check

_NODE, _NODES, _PAIRS, _ATTRIBUTES = "node", "nodes", "pairs", "attributes"

_FORMS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(SEQUENCES, (int, _NODES)), **dict.fromkeys(DICTS, (int, _PAIRS)),
    "deque": (int, _NODES, Maybe(int)), "group": (int, _PAIRS), "object": (int, Maybe(str), _ATTRIBUTES),
    "named": (int, str, _NODES), "generator": (int, str, _NODE), "method": (_NODE, str), "same": (int,),
    "tensor": (int,), "array": (int, str, str, [int]), "number": (str, str), "float": (str,), "bytes": (str,),
    "complex": (_NODE, _NODE), "model": (str,), "class": (str,), "member": (str, str), "constant": (list,),
    "fixed": ([str],),
}  # fmt: skip
"""What follows the name of each kind of node."""

_SCALARS = (type(None), bool, int, float, str)


def check_tree(tree: Any, values: Mapping[str, Array], classes: Classes) -> None:
    """Hold a tree to what `Writer` writes.

    Args:
        tree: it.
        values: the arrays that go with it.
        classes: those that may be made.

    Raises:
        Malformed: it is another one.
    """
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += _within(node)
            _check_rest(node, values, classes)
        elif type(node) not in _SCALARS:
            raise Malformed(f"no value of an optimizer's state: {excerpt(node)}")


def _within(node: list[Any]) -> Iterable[Any]:
    """The nodes in a node, which has its form."""
    kind, rest = (node[0], node[1:]) if node else (None, [])
    form = _FORMS.get(kind) if isinstance(kind, str) else None
    if kind == "defaultdict" and len(rest) == 3:
        form = (int, _PAIRS, _NODE)
    if form is None or len(form) != len(rest):
        raise Malformed(f"no value of an optimizer's state: {excerpt(node)}")
    for wanted, value in zip(form, rest, strict=True):
        if wanted == _NODE:
            yield value
        elif wanted == _NODES:
            yield from check(value, list)
        elif wanted in (_PAIRS, _ATTRIBUTES):
            for pair in check(value, [list]):
                if len(pair) != 2:
                    raise Malformed(f"no pair: {excerpt(pair)}")
                yield from pair if wanted == _PAIRS else (check(pair[0], str), pair[1])
        else:
            check(value, wanted)


def _check_rest(node: list[Any], values: Mapping[str, Array], classes: Classes) -> None:
    """What is made by a node can be made, and is of a class that is known."""
    kind, *rest = node
    if kind == "object" and rest[1] is not None and not marks.can_be_made(classes.named(rest[1])):
        raise Malformed(f"objects of {excerpt(rest[1])} are not made of files")
    if kind == "named":
        made = classes.named(rest[1])
        if not issubclass(made, tuple) or len(getattr(made, "_fields", ())) != len(rest[2]):
            raise Malformed(f"{excerpt(rest[1])} is no named tuple of {len(rest[2])}")
    if kind == "member":
        made = classes.named(rest[0])
        if not issubclass(made, Enum) or rest[1] not in made.__members__:
            raise Malformed(f"{excerpt(rest[0])} has no member {excerpt(rest[1])}")
    if kind == "class":
        classes.named(rest[0])
    if kind == "number" and len(rest[1]) != 2 * _dtype(rest[0]).itemsize:
        raise Malformed(f"no number: {excerpt(node)}")
    if kind == "array":
        _, name, dtype, shape = rest
        size = values[name].nbytes if name in values else -1
        if min(shape, default=0) < 0 or np.prod(shape, dtype=object) * _dtype(dtype).itemsize != size:
            raise Malformed(f"no {excerpt(dtype)} of {excerpt(shape)}: {excerpt(name)}")


def _dtype(text: str) -> np.dtype[Any]:
    """A type of numbers.

    Raises:
        Malformed: it is none.
    """
    try:
        found = np.dtype(text)
    except (TypeError, ValueError) as error:
        raise Malformed(f"no type of numbers: {excerpt(text)}") from error
    if found.hasobject or not found.itemsize:
        raise Malformed(f"no type of numbers: {excerpt(text)}")
    return found
