"""Samples as bytes between hosts, without pickle: a JSON text that tells the structure, then the arrays' bytes.

Who receives them believes nothing: arrays hold numbers, truth values and text alone, and are as large as what has come.
"""

from __future__ import annotations

import json
import math
import re
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisono.errors import JobError
from unisono.frameworks.protocol import Array, DataFunctions
from unisono.hosts.arrays import Reader
from unisono.values.text import excerpt
from unisono.values.untrusted import Malformed, check, parsed

_HEAD = struct.Struct("=q")

DEEPEST = 32
"""Tuples, lists and dicts of a sample within each other."""

_JSON_DEEPEST = 3 * DEEPEST + 6
"""What describes a dict is three lists within each other."""

_MOST_AXES, _LONGEST_AXIS = 32, 1 << 48

_DTYPE = re.compile(r"[<>|=][biufcmMSU]\d{1,9}(\[\w{1,9}\])?|[a-z][a-z0-9_]{1,30}", re.ASCII)
"""As NumPy writes them; names are those of JAX's types (bfloat16)."""

_PLAIN = (type(None), bool, int, float, str)


def encoded(value: Any, functions: DataFunctions) -> bytes:
    """A structure of samples as bytes.

    Args:
        value: numbers, texts, bytes, arrays and tensors, in tuples, lists and dicts.
        functions: the framework's.

    Raises:
        JobError: it holds something else.
    """
    arrays: list[bytes] = []
    text = json.dumps(_described(value, functions, arrays)).encode()
    return b"".join([_HEAD.pack(len(text)), text, *arrays])


def decoded(data: bytes, functions: DataFunctions) -> Any:
    """The structure again; its arrays are private.

    Args:
        data: what `encoded` gave, or so another host says.
        functions: the framework's.

    Raises:
        Malformed: it is something else.
    """
    length = _HEAD.unpack_from(data)[0] if len(data) >= _HEAD.size else -1
    if not 0 <= length <= len(data) - _HEAD.size:
        raise Malformed(f"{len(data)} bytes that begin with no length of what describes them")
    reader = Reader(data, _HEAD.size + length)
    found = _Samples(reader, functions).made(parsed(data[_HEAD.size : _HEAD.size + length], _JSON_DEEPEST))
    if reader.left:
        raise Malformed(f"{reader.left} bytes more than what describes them says")
    return found


def _described(value: Any, functions: DataFunctions, arrays: list[bytes], depth: int = 1) -> Any:
    def array(kind: str, content: Array, *more: str) -> Any:
        if content.dtype.hasobject or content.dtype.names or (not content.dtype.itemsize and content.size > 1):
            raise _foreign(f"an array of {content.dtype}")
        arrays.append(content.tobytes())
        name = content.dtype.name if content.dtype.kind == "V" else content.dtype.str  # V: JAX's bfloat16 and others
        return [kind, name, list(content.shape), *more]

    if isinstance(value, np.ndarray):
        return array("array", value)
    if isinstance(value, np.generic):
        return array("scalar", np.asarray(value))
    if isinstance(value, functions.TENSORS) and (found := functions.to_array(value)) is not None:
        return array("tensor", *found)
    if isinstance(value, bytes):
        return array("bytes", np.frombuffer(value, np.uint8))
    if type(value) in _PLAIN:
        return ["plain", value]
    if depth > DEEPEST:
        raise _foreign(f"more than {DEEPEST} of these within each other")
    if type(value) in (tuple, list):
        return [type(value).__name__, [_described(item, functions, arrays, depth + 1) for item in value]]
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        return ["dict", [[key, _described(item, functions, arrays, depth + 1)] for key, item in value.items()]]
    raise _foreign(type(value).__name__)


def _foreign(what: str) -> JobError:
    return JobError(
        "samples that travel between hosts are numbers, texts, bytes, arrays and tensors, in tuples, lists and dicts; "
        f"received {what}. Return its parts, or have the data on every host and leave --data-host out."
    )


@dataclass
class _Samples:
    """Makes a structure again; arrays are taken in the order in which they were written."""

    reader: Reader
    functions: DataFunctions

    def made(self, description: Any) -> Any:
        if not isinstance(description, list) or len(description) < 2:
            raise Malformed(f"no description of a value: {excerpt(description)}")
        kind, content, *more = description
        if kind == "plain" and type(content) in _PLAIN:
            return content
        if kind == "dict":
            return dict(map(self._pair, check(content, list)))
        if kind in ("tuple", "list"):
            items = [self.made(item) for item in check(content, list)]
            return tuple(items) if kind == "tuple" else items
        if kind not in ("array", "scalar", "tensor", "bytes") or not more:
            raise Malformed(f"no description of a value: {excerpt(description)}")
        array = self._array(_dtype(content), check(more[0], [int], "shape"))
        if kind == "tensor":
            return self._tensor(array, check(more[1] if more[1:] else None, str, "kind"))
        if kind == "bytes":
            return array.tobytes()
        return array[()] if kind == "scalar" else array

    def _pair(self, pair: Any) -> tuple[Any, Any]:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str | int):
            raise Malformed(f"no name with its value: {excerpt(pair)}")
        return pair[0], self.made(pair[1])

    def _array(self, dtype: np.dtype[Any], shape: list[int]) -> Array:
        if len(shape) > _MOST_AXES or min(shape, default=0) < 0 or max(shape, default=0) > _LONGEST_AXIS:
            raise Malformed(f"an array of shape {excerpt(shape)}")
        if not dtype.itemsize and math.prod(shape) > 1:
            raise Malformed(f"an array of {excerpt(shape)} elements of no bytes")
        view = self.reader.take(dtype, shape)
        _check_values(view)
        return view.copy()

    def _tensor(self, array: Array, kind: str) -> Any:
        try:
            return self.functions.from_array(array, kind)
        except Exception as error:  # whatever a framework says of a type that it does not have
            raise Malformed(f"no tensor can be made of {array.dtype}, {excerpt(kind)}: {error}") from error


def _dtype(name: Any) -> np.dtype[Any]:
    """A type of numbers, truth values or text: never of objects, which are addresses."""
    try:
        found = np.dtype(name) if isinstance(name, str) and _DTYPE.fullmatch(name) else None
    except (TypeError, ValueError):
        found = None
    is_plain = found is not None and (found.kind in "biufcmMSU" or (found.kind == "V" and found.type is not np.void))
    if found is None or not is_plain or found.hasobject or found.names or found.subdtype:
        raise Malformed(f"arrays hold numbers, truth values and text; received the type {excerpt(name)}")
    return found


def _check_values(array: Array) -> None:
    """Not all bytes are truth values or characters."""
    if array.dtype.kind == "b":
        unfit = array.view(np.uint8) > 1
    elif array.dtype.kind == "U" and array.nbytes:
        unfit = np.ascontiguousarray(array).reshape(-1).view(f"{array.dtype.byteorder}u4") > sys.maxunicode
    else:
        return
    if unfit.any():
        raise Malformed(f"an array of {array.dtype} whose bytes are no such values")
