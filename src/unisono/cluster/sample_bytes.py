"""Samples as bytes between hosts, without pickle: a JSON text that tells the structure, then the arrays' bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from unisono.errors import JobError
from unisono.frameworks.protocol import Array, DataFunctions

_HEAD = struct.Struct("=q")


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
        data: what `encoded` gave.
        functions: the framework's.
    """
    (length,) = _HEAD.unpack_from(data)
    return _Reader(data, _HEAD.size + length, functions).made(json.loads(data[_HEAD.size : _HEAD.size + length]))


def _described(value: Any, functions: DataFunctions, arrays: list[bytes]) -> Any:
    def array(kind: str, content: Array, *more: str) -> Any:
        if content.dtype.hasobject or content.dtype.names:
            raise _foreign(f"an array of {content.dtype}")
        arrays.append(content.tobytes())
        name = content.dtype.name if content.dtype.kind == "V" else content.dtype.str  # V: JAX's bfloat16 and others
        return [kind, name, list(content.shape), *more]

    if isinstance(value, np.ndarray):
        return array("array", value)
    if isinstance(value, np.generic):
        return array("scalar", np.asarray(value))
    if isinstance(value, functions.TENSORS):
        return array("tensor", *functions.to_array(value))
    if isinstance(value, bytes):
        return array("bytes", np.frombuffer(value, np.uint8))
    if value is None or type(value) in (bool, int, float, str):
        return ["plain", value]
    if type(value) in (tuple, list):
        return [type(value).__name__, [_described(item, functions, arrays) for item in value]]
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        return ["dict", [[key, _described(item, functions, arrays)] for key, item in value.items()]]
    raise _foreign(type(value).__name__)


def _foreign(what: str) -> JobError:
    return JobError(
        "samples that travel between hosts are numbers, texts, bytes, arrays and tensors, in tuples, lists and dicts; "
        f"received {what}. Return its parts, or have the data on every host and leave --data-host out."
    )


class _Reader:
    """Makes a structure again; arrays are taken in the order in which they were written."""

    def __init__(self, data: bytes, at: int, functions: DataFunctions) -> None:
        self._data, self._at, self._functions = data, at, functions

    def made(self, description: Any) -> Any:
        kind, content, *more = description
        if kind == "plain":
            return content
        if kind == "dict":
            return {key: self.made(item) for key, item in content}
        if kind in ("tuple", "list"):
            items = [self.made(item) for item in content]
            return tuple(items) if kind == "tuple" else items
        array = self._array(np.dtype(content), tuple(more[0]))
        if kind == "tensor":
            return self._functions.from_array(array, more[1])
        if kind == "bytes":
            return array.tobytes()
        return array[()] if kind == "scalar" else array

    def _array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        view: Array = np.ndarray(shape, dtype, self._data, self._at)
        self._at += view.nbytes
        return view.copy()
