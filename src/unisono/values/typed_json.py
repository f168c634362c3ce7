"""Arguments of a job in run.json: plain values as JSON has them, others beside the name of their type.

    {"lr": 0.003, "name": "3", "where": {"type": "Path", "value": "data"}, "sizes": {"type": "tuple", "value": [8, 2]}}

No pickle: what comes back is of the types that stand here, whatever the file says.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import UsageError
from unisono.values.text import excerpt

MOST_ELEMENTS = 1 << 16
"""Of an array: run.json is read by people."""

MOST_ELEMENT_BYTES = 1 << 16
NUMPY_KINDS = "biufcUS"


class CannotKeep(Exception):
    """A value of a type that stands not here."""


def _written_array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    if not _is_known(array.dtype) or array.size > MOST_ELEMENTS:
        raise CannotKeep
    return {"dtype": array.dtype.str, "shape": list(array.shape), "elements": written(array.ravel().tolist())}


def _read_array(value: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    dtype = np.dtype(value["dtype"])
    if not _is_known(dtype):
        raise ValueError(f"an array of {dtype}")
    return np.array(read(value["elements"]), dtype).reshape([int(length) for length in value["shape"]])


def _is_known(dtype: np.dtype[Any]) -> bool:
    """Whether elements are plain values, which Python writes and reads without loss."""
    return dtype.kind in NUMPY_KINDS and dtype.char not in "gG" and dtype.itemsize <= MOST_ELEMENT_BYTES


def _items(value: Any) -> list[Any]:
    return [written(item) for item in value]


def _unordered(value: Any) -> list[Any]:
    return _items(sorted(value, key=lambda item: (type(item).__name__, repr(item))))


def _all_read(value: Any) -> list[Any]:
    return [read(item) for item in value]


_FORMS: Mapping[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "float": (float, repr, float),  # those that JSON does not know
    "complex": (complex, repr, complex),
    "Path": (type(Path()), str, Path),
    "bytes": (bytes, lambda value: base64.b64encode(value).decode(), base64.b64decode),
    "tuple": (tuple, _items, lambda value: tuple(_all_read(value))),
    "set": (set, _unordered, lambda value: set(_all_read(value))),
    "frozenset": (frozenset, _unordered, lambda value: frozenset(_all_read(value))),
    "dict": (dict, lambda value: _items(map(list, value.items())), lambda value: dict(_all_read(value))),
    "range": (range, lambda value: [value.start, value.stop, value.step], lambda value: range(*value)),
    "array": (np.ndarray, _written_array, _read_array),
}
"""By name a type, and how its values are written and read."""


def written(value: Any) -> Any:
    """A value as run.json holds it.

    Args:
        value: of an argument.

    Raises:
        CannotKeep: it is of no type that comes back.

    >>> written([1, "3", None, (2.5, float("inf"))])
    [1, '3', None, {'type': 'tuple', 'value': [2.5, {'type': 'float', 'value': 'inf'}]}]
    """
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if kind is list:
        return _items(value)
    if kind is dict and all(type(key) is str for key in value) and value.keys() != {"type", "value"}:
        return {key: written(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return {"type": "scalar", "value": _written_array(np.asarray(value))}
    for name, (known, write, _) in _FORMS.items():
        if kind is known:
            return {"type": name, "value": write(value)}
    raise CannotKeep


def read(value: Any) -> Any:
    """A value that `written` has written.

    Args:
        value: as JSON gives it.

    Raises:
        ValueError, TypeError, LookupError: it has not.

    >>> read({"type": "set", "value": [1, {"type": "bytes", "value": "YWI="}]}) == {1, b"ab"}
    True
    """
    if isinstance(value, list):
        return _all_read(value)
    if not isinstance(value, dict):
        return value
    if value.keys() != {"type", "value"}:
        return {key: read(item) for key, item in value.items()}
    if value["type"] == "scalar":
        return _read_array(value["value"])[()]
    return _FORMS[value["type"]][2](value["value"])


DEFAULT = {"type": "default", "value": "the job function's own"}
"""What stands for a default of another type: it comes back from the job's file."""


def arguments_written(arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as run.json holds them.

    Args:
        arguments: by their names.
        defaults: of the job's function; nothing is known of them where a caller names arguments.

    Raises:
        UsageError: one cannot be kept.
    """
    if not isinstance(arguments, Mapping):
        raise UsageError(f"arguments must map names to values; received {excerpt(arguments)}.")
    kept = {}
    for name, value in arguments.items():
        try:
            if type(value) is type(defaults.get(name)) and isinstance(value, Enum):  # its default names its class
                kept[name] = {"type": "enum", "value": value.name}
            else:
                kept[name] = written(value)
        except (CannotKeep, RecursionError):
            if name not in defaults or value is not defaults[name]:
                raise UsageError(
                    "arguments are kept in run.json, so that a resumed run has them: numbers, text, None, paths, "
                    "bytes, lists, tuples, sets and dictionaries of them, and NumPy's numbers and arrays of at most "
                    f"{MOST_ELEMENTS} elements; received {name}={excerpt(value)}. Give what it is made from."
                ) from None
            kept[name] = DEFAULT
    return kept


def arguments_read(kept: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that `arguments_written` has written.

    Args:
        kept: what run.json holds.
        defaults: of the job's function.

    Raises:
        UsageError: the function does not take one, or it is none.
    """
    found: dict[str, Any] = {}
    for name, value in kept.items():
        if name not in defaults:
            raise UsageError(
                f"a run goes on with its arguments; run.json holds {name!r}, which the job's function does not take: "
                f"it takes {', '.join(defaults) or 'none'}. Give it that argument back."
            )
        try:
            if value == DEFAULT:
                found[name] = defaults[name]
            elif isinstance(value, dict) and value.keys() == {"type", "value"} and value["type"] == "enum":
                found[name] = type(defaults[name])[value["value"]]
            else:
                found[name] = read(value)
        except (ValueError, TypeError, LookupError, RecursionError, OverflowError, MemoryError) as error:
            raise UsageError(
                f"a run goes on with its arguments; what run.json holds of {name!r} is none: {excerpt(value)} "
                f"({error}). Give it anew: {name}=VALUE."
            ) from error
    return found
