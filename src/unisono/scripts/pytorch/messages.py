"""Messages between a script and its workers: the script's own classes and functions travel by value, once."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as tracked
from torch.utils._pytree import TreeSpec

from unisono.errors.traces import is_users_file


class _Writer(cloudpickle.Pickler):  # type: ignore[misc]
    """Names classes that the other end has: it would change them."""

    def reducer_override(self, value: Any) -> Any:
        """See `pickle.Pickler`: some versions of PyTorch warn where they make a structure anew."""
        if isinstance(value, type):
            name = tracked._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(value)
            if name is not None:
                return _class_named, (name, _definition(value))
        if isinstance(value, TreeSpec):
            return _structure, (type(value), {each.name: getattr(value, each.name) for each in fields(value)})
        return super().reducer_override(value)


def _class_named(name: str, definition: bytes) -> type:
    found: type | None = tracked._DYNAMIC_CLASS_TRACKER_BY_ID.get(name)
    if found is None:
        found = pickle.loads(definition)
    return found


@cache
def _definition(kind: type) -> bytes:
    """For an end that does not have it: of an argument alone, say, that the targets do not know."""
    try:
        return bytes(cloudpickle.dumps(kind))
    except Exception:  # it refers to what cannot travel; whoever has it needs no definition
        return b""


def _structure(kind: type[TreeSpec], members: dict[str, Any]) -> TreeSpec:
    made = object.__new__(kind)
    for name, member in members.items():
        object.__setattr__(made, name, member)
    return made


def written_message(value: Any) -> bytes:
    """A message, as a channel takes it."""
    file = io.BytesIO()
    _Writer(file, 5).dump(value)
    return file.getvalue()


@contextmanager
def by_value() -> Iterator[None]:
    """A block in which what a person's own modules define is pickled with its code, as what the script itself defines.

    So it has the globals that the script has given it, and another process need not run those files.
    """
    own = [module for name, module in list(sys.modules.items()) if _is_own(name, module)]
    registered = [module for module in own if module.__name__ not in cloudpickle.list_registry_pickle_by_value()]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def _is_own(name: str, module: Any) -> bool:
    file = getattr(module, "__file__", None)
    return (
        isinstance(file, str)
        and name != "__main__"
        and getattr(module, "__name__", None) == name
        and is_users_file(file)
    )
