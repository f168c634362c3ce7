"""Something to do as soon as a module has been imported, whoever imports it and whenever."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(name: str, do: Callable[[], None]) -> None:
    """Do something right after a module's first import; at once, where it has been imported.

    Args:
        name: the module's.
        do: called once; the module is not imported for it.

    >>> after_import("this_is_imported_by_nobody", lambda: print("imported"))
    """
    if name in sys.modules:
        do()
    else:
        sys.meta_path.insert(0, _Watcher(name, do))


class _Watcher:
    def __init__(self, name: str, do: Callable[[], None]) -> None:
        self._name, self._do = name, do

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`: the module as the other finders find it."""
        if name != self._name or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_do(module: ModuleType) -> None:
                execute(module)
                self._do()

            spec.loader.exec_module = execute_and_do  # type: ignore[method-assign]
        return spec
