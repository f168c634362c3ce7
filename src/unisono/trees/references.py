"""Classes by name: those that the job's own object is made of, and those that their code knows; no others.

A tree comes from a file. Of the classes that this process has imported, some do damage as soon as there is an object of
them; so a tree names none but these, and nothing is imported for it.
"""

from __future__ import annotations

import builtins
import collections
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from unisono.trees import marks
from unisono.values.text import excerpt
from unisono.values.untrusted import Malformed

_ALWAYS = (
    bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, collections.deque,
    collections.OrderedDict, collections.defaultdict, collections.Counter,
)  # fmt: skip
"""What any code may have in mind (`defaultdict(list)`)."""


class Classes:
    """The classes that a tree may name: of what an object holds, and what the modules of these know.

    Args:
        root: the object, as the job has made it.
    """

    def __init__(self, root: object) -> None:
        self._known: dict[str, type] = {_name(kind): kind for kind in _ALWAYS}
        looked_at: set[int] = set()
        for held in _classes_in(root):
            for base in held.__mro__[:-1]:
                self._known[_name(base)] = base
                for method in vars(base).values():
                    names = getattr(getattr(method, "__wrapped__", method), "__globals__", {})
                    if id(names) not in looked_at:
                        looked_at.add(id(names))
                        self._known |= {_name(kind): kind for kind in _classes_of(names.values())}

    def name(self, kind: type) -> str | None:
        """The name under which a class is found again, here and in other processes.

        >>> from collections import deque
        >>> Classes(object()).name(deque), Classes(object()).name(type("Local", (), {}))
        ('collections:deque', None)
        """
        name = _name(kind)
        return name if self._known.get(name) is kind else None

    def named(self, name: str) -> type:
        """The class of a name.

        Raises:
            Malformed: none that a tree may name.
        """
        if name not in self._known:
            raise Malformed(f"{excerpt(name)} is no class that the job's optimizer is made of")
        return self._known[name]


def _name(kind: type) -> str:
    return f"{getattr(kind, '__module__', None) or builtins.__name__}:{kind.__qualname__}"


def _classes_in(root: object) -> Iterator[type]:
    """The classes of an object and of all that it holds."""
    left: list[Any] = [root]
    seen: set[int] = set()
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset | collections.deque):
            left += value
        elif marks.is_plain(value):
            left += marks.attributes(value).values()
        if type(value).__module__ != builtins.__name__:
            yield type(value)


def _classes_of(values: Any) -> Iterator[type]:
    """The classes among a module's names, and those of modules among them but the standard library's."""
    for value in values:
        if _is_class(value):
            yield value
        elif isinstance(value, ModuleType) and value.__name__.partition(".")[0] not in sys.stdlib_module_names:
            yield from (each for each in vars(value).values() if _is_class(each))


def _is_class(value: Any) -> bool:
    return issubclass(type(value), type)  # `isinstance` asks the value, and modules hold some that warn of being asked
