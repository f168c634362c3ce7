"""Marks of values: another mark, another value. For what can be watched, but not be kept or not yet."""

from __future__ import annotations

import inspect
import io
import pickle
import random
import types
import warnings
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np

SCALARS = (type(None), bool, int, float, complex, str, bytes)
_HEAP_TYPE = 1 << 9


def is_plain(value: Any) -> bool:
    """Whether an object is all in its attributes: of classes written in Python, with nothing to say about copying.

    >>> import threading
    >>> is_plain(Exception()), is_plain(threading.Event()), is_plain(threading.Lock())
    (False, True, False)
    """
    return not isinstance(value, type) and _is_plain_class(type(value))


def _is_plain_class(kind: type) -> bool:
    copied = not any("__reduce__" in vars(base) or "__reduce_ex__" in vars(base) for base in kind.__mro__[:-1])
    written = all(base is object or base.__flags__ & _HEAP_TYPE for base in kind.__mro__)
    return copied and written and bool(kind.__dictoffset__ or any("__slots__" in vars(base) for base in kind.__mro__))


def can_be_made(kind: type) -> bool:
    """Whether an object of a class is made of its attributes alone, and does nothing when it goes.

    >>> import subprocess, threading
    >>> can_be_made(threading.Event), can_be_made(subprocess.Popen), can_be_made(dict)
    (True, False, False)
    """
    return _is_plain_class(kind) and not issubclass(kind, type) and not hasattr(kind, "__del__")


def slots(kind: type) -> tuple[str, ...]:
    """The names of the slots of a class's objects, in order."""
    found: dict[str, None] = {}
    for base in kind.__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            is_private = name.startswith("__") and not name.endswith("__")
            found[f"_{base.__name__.lstrip('_')}{name}" if is_private else name] = None
    return tuple(name for name in found if name not in ("__dict__", "__weakref__"))


def attributes(value: Any) -> dict[str, Any]:
    """What an object holds, in its `__dict__` and in its slots."""
    found: dict[str, Any] = dict(getattr(value, "__dict__", {}))
    found.update((name, getattr(value, name)) for name in slots(type(value)) if hasattr(value, name))
    return found


def mark(value: Any, known: Callable[[Any], Any], seen: frozenset[int] = frozenset()) -> Any:
    """A value's mark.

    Args:
        value: anything.
        known: marks the framework's arrays and parts of the model; None for anything else.
        seen: objects that hold it.
    """
    kind = type(value)
    if kind in SCALARS:
        return kind.__name__, repr(value)
    if id(value) in seen:
        return id(value)
    found = known(value)
    if found is not None:
        return found
    inside = seen | {id(value)}

    def each(values: Any) -> tuple[Any, ...]:
        return tuple(mark(item, known, inside) for item in values)

    if isinstance(value, np.ndarray):
        return kind.__name__, str(value.dtype), value.shape, blake2b(value.tobytes(), digest_size=16).digest()
    if isinstance(value, list | tuple | deque):
        return kind.__name__, each(value)
    if isinstance(value, set | frozenset):
        return kind.__name__, tuple(sorted(map(repr, each(value))))
    if isinstance(value, dict):
        return kind.__name__, each(value), each(value.values())
    if isinstance(value, types.FunctionType):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        return id(value), each(cells), each(vars(value).values())
    if isinstance(value, types.MethodType):
        return id(value.__func__), each([value.__self__])
    if is_plain(value):
        held = attributes(value)
        return id(value), tuple(held), each(held.values())
    return id(value), _watched(value, lambda inner: mark(inner, known, inside))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing in it yet
        return None


def _watched(value: Any, inner: Callable[[Any], Any]) -> Any:
    """What can be seen of an object that cannot be kept."""
    if isinstance(value, io.IOBase | io.TextIOBase):
        return value.closed, None if value.closed or not value.seekable() else value.tell()
    if inspect.isgenerator(value):
        frame = value.gi_frame
        return None if frame is None else (frame.f_lasti, inner(list(frame.f_locals.values())))
    if isinstance(value, type | types.ModuleType):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # copying iterators is deprecated in newer Pythons
            return blake2b(pickle.dumps(value, 4), digest_size=16).digest()
    except Exception:  # it does not say what it holds
        return repr(value)


def moments(value: Any) -> Any:
    """The state of Python's or NumPy's generators of random numbers, as values that a tree can hold; else None."""
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    return None


def resume(generator: Any, state: Any) -> Any:
    """Such a generator in a state.

    Args:
        generator: the one to put into it; anything else = a new one.
        state: what `moments` gave.

    >>> first = np.random.default_rng(1)
    >>> again = resume(None, moments(first))
    >>> first.random() == again.random()
    True
    """
    if isinstance(state, tuple):
        generator = generator if isinstance(generator, random.Random) else random.Random()
        generator.setstate(state)
    elif "has_gauss" in state:
        generator = generator if isinstance(generator, np.random.RandomState) else np.random.RandomState()
        generator.set_state(state)
    else:
        if not isinstance(generator, np.random.Generator):
            kind = getattr(np.random, state["bit_generator"])
            if not (isinstance(kind, type) and issubclass(kind, np.random.BitGenerator)):
                raise ValueError(f"{kind!r} draws no random numbers")
            generator = np.random.Generator(kind())
        generator.bit_generator.state = state
    return generator
