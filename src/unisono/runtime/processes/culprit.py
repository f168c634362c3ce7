"""Which variable of a job cannot be pickled."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import FunctionType, MethodType
from typing import Any

MOST_MEMBERS, MOST_STEPS = 100, 12
"""Of one object that are looked at; from the job's field to the variable."""


def culprit(name: str, value: Any, travels: Callable[[Any], bool]) -> str:
    """The way to what does not travel, and its class.

    Args:
        name: the job's field.
        value: what is in it.
        travels: whether a value does.

    >>> culprit("data", {"a": 1, "b": ["fixed"]}, lambda value: "fixed" not in repr(value))
    "data['b'][0]: str"
    """
    for _ in range(MOST_STEPS):
        found = next(((way, member) for way, member in _members(value) if not travels(member)), None)
        if found is None:
            break
        name, value = name + found[0], found[1]
    return f"{name}: {type(value).__name__}"


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value consists of, or refers to, each with how to write the way there."""
    if isinstance(value, MethodType):
        yield from ((f", its {name}", getattr(value, name)) for name in ("__self__", "__func__"))
    elif isinstance(value, FunctionType):
        seen = inspect.getclosurevars(value)
        yield from ((f", its {name}", member) for name, member in {**seen.nonlocals, **seen.globals}.items())
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", member) for key, member in islice(value.items(), MOST_MEMBERS))
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", member) for index, member in enumerate(islice(value, MOST_MEMBERS)))
    elif isinstance(value, type):
        yield from ((f".{name}", member) for name, member in vars(value).items() if isinstance(member, FunctionType))
    else:
        yield from ((f".{name}", member) for name, member in getattr(value, "__dict__", {}).items())
        yield f", a {type(value).__name__}", type(value)
