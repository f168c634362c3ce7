"""What values hold, as marks that can be compared: another mark, another value."""

from __future__ import annotations

import enum
import marshal
import random
import sys
import weakref
from argparse import Namespace
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from types import BuiltinFunctionType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from unisono.errors.traces import is_users_file
from unisono.scripts.plain import is_plain as is_small
from unisono.trees.marks import SCALARS, attributes, is_plain, mark

WHOLE_BYTES = 1 << 16
"""Of a tensor or an array that is looked at as a whole; of a larger one as many elements, evenly spread, are."""

WHOLE_ITEMS = 4096
"""The same of a list or dictionary of objects; of numbers and texts all are looked at."""

_ALONE = (nn.Module, FunctionType, BuiltinFunctionType, nn.Parameter)
_SAY_WHAT_THEY_HOLD = (random.Random, np.random.Generator, np.random.RandomState)


@dataclass(frozen=True, eq=False)
class Same:
    """An object that is equal to itself alone."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    __hash__ = None  # type: ignore[assignment]


def is_fixed(value: Any) -> bool:
    """Whether a value stays what it is: a number, a text, or a tuple of such."""
    return type(value) in SCALARS or (type(value) is tuple and all(type(each) in SCALARS for each in value))


def is_same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal, to their types.

    >>> is_same([1.0], [1.0]), is_same(1, 1.0), is_same(float("nan"), float("nan"))
    (True, False, True)
    """
    return (one is other and is_fixed(one)) or Look().at(one) == Look().at(other)


class Look:
    """One look at many values.

    Args:
        into_libraries: whether also to look at the plain attributes of libraries' objects, a configuration's say.

    >>> values = [1.0, {"a": [2]}]
    >>> before = Look().at(values)
    >>> values[1]["a"].append(3)
    >>> before == Look().at(values), Look().at(values) == Look().at(values)
    (False, True)
    """

    def __init__(self, into_libraries: bool = True) -> None:
        self._into_libraries = into_libraries
        self._found: dict[int, Any] = {}

    def at(self, value: Any) -> Any:
        """A value's mark."""
        return mark(value, self._known)

    def _known(self, value: Any) -> Any:
        """The marks of what `unisono.trees.marks` does not know, or not as scripts use it; None for anything else."""
        if isinstance(value, _ALONE):
            return Same(value)
        if isinstance(value, torch.Tensor):
            return _of_tensor(value)
        if isinstance(value, torch.Generator):
            return _digest(value.get_state().numpy())
        if isinstance(value, np.ndarray):
            return _of_array(value) if value.nbytes > WHOLE_BYTES else None
        if isinstance(value, (list, tuple, deque, dict)):
            return self._of_many(value) if len(value) > 64 else None
        if isinstance(value, weakref.ref):
            return Same(value())
        if isinstance(value, (type, ModuleType)):
            return self._once(value, self._of_namespace)
        if is_plain(value) or isinstance(value, SimpleNamespace):
            return self._once(value, self._of_object)
        is_looked_into = self._into_libraries or isinstance(value, _SAY_WHAT_THEY_HOLD)
        return None if is_looked_into or type(value).__module__ in ("builtins", "itertools") else Same(value)

    def _once(self, value: Any, look: Callable[[Any], Any]) -> Any:
        """The mark of what many refer to, itself perhaps."""
        if id(value) not in self._found:
            self._found[id(value)] = Same(value)
            self._found[id(value)] = look(value)
        return self._found[id(value)]

    def _of_object(self, value: Any) -> Any:
        kind = type(value).__module__
        held = attributes(value)
        if not is_own(kind) and not isinstance(value, Namespace | SimpleNamespace):
            is_looked_at = self._into_libraries and not kind.startswith("logging")
            held = {name: each for name, each in held.items() if is_looked_at and is_small(each)}
        return Same(value), {name: self.at(each) for name, each in held.items()}

    def _of_namespace(self, value: Any) -> Any:
        """Of a person's own class or module: what stands in it, but for code."""
        is_class = isinstance(value, type)
        if is_class and issubclass(value, enum.Enum):
            return Same(value)
        places = [each for each in (value.__mro__ if is_class else [value]) if is_own(_module_of(each))]
        held = [
            (name, self.at(each))
            for place in places
            for name, each in list(vars(place).items())
            if not name.startswith(("__", "_abc_", "_unisono_")) and not _is_code(each)
        ]
        return (Same(value), held) if places else Same(value)

    def _of_many(self, value: Any) -> Any:
        kept = [*value, *value.values()] if isinstance(value, dict) else list(value)
        try:
            return type(value).__name__, len(kept), _digest(marshal.dumps(kept, 2))
        except ValueError:  # not numbers and texts alone
            step = max(1, len(kept) // WHOLE_ITEMS)
            return type(value).__name__, len(kept), [self.at(each) for each in kept[::step]]


def _module_of(value: Any) -> str:
    name: str = value.__module__ if isinstance(value, type) else value.__name__
    return name


def _is_code(value: Any) -> bool:
    return isinstance(value, ModuleType) or (hasattr(value, "__get__") and not isinstance(value, type))


def is_own(module: str) -> bool:
    """Whether a module of this name is a person's own code."""
    if module == "__main__" or module not in sys.modules:  # made by exec
        return True
    file = getattr(sys.modules[module], "__file__", None)
    return isinstance(file, str) and is_users_file(file)


def _of_tensor(value: torch.Tensor) -> Any:
    if (value.requires_grad and value.is_leaf) or value.device.type != "cpu" or value.layout is not torch.strided:
        return Same(value)
    shape = str(value.dtype), tuple(value.shape)
    real = torch.view_as_real(value.detach().resolve_conj()) if value.is_complex() else value.detach()
    if real.numel() * real.element_size() <= WHOLE_BYTES:
        return *shape, _digest(real.contiguous().reshape(-1).view(torch.uint8).numpy())
    some = _of_array(real.view(torch.uint8).numpy()) if real.is_contiguous() else None
    return *shape, Same(value), 0 if value.is_inference() else value._version, some


def _of_array(value: Any) -> Any:
    flat = value.reshape(-1)
    return value.dtype.str, value.shape, _digest(np.ascontiguousarray(flat[:: max(1, flat.size // WHOLE_BYTES)]))


def _digest(values: Any) -> bytes:
    return blake2b(values, digest_size=16).digest()
