"""Classes by name: only what the job itself has imported is found, and nothing is imported for it."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from functools import reduce
from typing import Any


class Classes:
    """The classes that a tree may name: those of modules that are there, and those that an object's methods know.

    Args:
        root: the object; its class may have come with a job that travelled.
    """

    def __init__(self, root: object) -> None:
        self._near: dict[str, type] = {}
        for base in type(root).__mro__:
            methods = [getattr(item, "__wrapped__", item) for item in vars(base).values()]
            known: list[Mapping[str, Any]] = [getattr(method, "__globals__", {}) for method in methods]
            for value in (base, *(value for names in known for value in names.values())):
                if isinstance(value, type):
                    self._near[_name(value)] = value

    def name(self, kind: type) -> str | None:
        """The name under which a class is found again, here and in other processes.

        >>> from collections import deque
        >>> Classes(object()).name(deque), Classes(object()).name(type("Local", (), {}))
        ('collections:deque', None)
        """
        name = _name(kind)
        try:
            return name if self.named(name) is kind else None
        except LookupError:
            return None

    def named(self, name: str) -> type:
        """The class of a name.

        Raises:
            LookupError: none in this process.
        """
        if name in self._near:
            return self._near[name]
        module, _, path = name.partition(":")
        found = reduce(lambda holder, part: getattr(holder, part, None), path.split("."), sys.modules.get(module))
        if not isinstance(found, type):
            raise LookupError(f"{name} is no class of a module that the job has imported")
        return found


def _name(kind: type) -> str:
    return f"{getattr(kind, '__module__', None) or builtins.__name__}:{kind.__qualname__}"
