"""What crosses between two stages, in shared memory: one copy in, none out, nothing pickled.

Layout: the number of arrays, the length of the JSON text, then per array eight words, the text, and the
arrays' bytes, each on a 64-byte boundary, in the order in which they lie in memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from unisono.errors import JobError
from unisono.memory.segment import aligned
from unisono.values.arrays import Array

MOST_AXES = 8
_HEAD = struct.Struct("=2q")
_ARRAY = struct.Struct(f"=8s2q{MOST_AXES}q{MOST_AXES}q")
_ABSENT = b"none"


def write(arrays: Sequence[Array | None], plain: Any, into: Array) -> int:
    """Write arrays and plain values; returns the bytes that they take.

    Args:
        arrays: any dtype and strides; None stays None.
        plain: what JSON can hold.
        into: uint8 array, 64-byte aligned.

    Raises:
        JobError: they do not fit, or `plain` is nothing that JSON can hold.
    """
    try:
        text = b"" if plain is None else json.dumps(plain).encode()
    except (TypeError, ValueError) as error:
        raise JobError(
            f"between stages pass tensors and values that JSON can hold; received {plain!r} ({error}). Cut the model "
            "elsewhere, or make the value again in the next stage."
        ) from error
    heads = _HEAD.size + len(arrays) * _ARRAY.size
    at = aligned(heads + len(text))
    needed = at + sum(aligned(array.nbytes) for array in arrays if array is not None)
    if needed > into.size:
        raise JobError(
            f"what crosses between two stages may take {into.size:,} bytes; this takes {needed:,}. "
            "Use more microbatches."
        )
    target = memoryview(into)  # type: ignore[arg-type]
    _HEAD.pack_into(target, 0, len(arrays), len(text))
    target[heads : heads + len(text)] = text
    for index, array in enumerate(arrays):
        head = _HEAD.size + index * _ARRAY.size
        if array is None:
            _ARRAY.pack_into(target, head, _ABSENT, 0, 0, *[0] * (2 * MOST_AXES))
            continue
        axes = _by_stride(array)
        rest = [0] * (MOST_AXES - array.ndim)
        _ARRAY.pack_into(target, head, array.dtype.str.encode(), array.ndim, at, *array.shape, *rest, *axes, *rest)
        lying = array.transpose(axes)
        np.copyto(_view(into, at, array.dtype, lying.shape), lying)
        at += aligned(array.nbytes)
    return needed


def read(source: Array) -> tuple[tuple[Array | None, ...], Any]:
    """Read what `write` wrote; the arrays are views of `source`, with their axes in the order they had in memory."""
    raw = memoryview(source)  # type: ignore[arg-type]
    count, length = _HEAD.unpack_from(raw)
    arrays: list[Array | None] = []
    for index in range(count):
        code, dimensions, at, *words = _ARRAY.unpack_from(raw, _HEAD.size + index * _ARRAY.size)
        code = code.rstrip(b"\0")
        if code == _ABSENT:
            arrays.append(None)
            continue
        shape, axes = words[:dimensions], words[MOST_AXES : MOST_AXES + dimensions]
        lying = _view(source, at, np.dtype(code.decode()), tuple(shape[axis] for axis in axes))
        arrays.append(lying.transpose(np.argsort(axes)) if dimensions else lying)
    text = _HEAD.size + count * _ARRAY.size
    return tuple(arrays), json.loads(bytes(raw[text : text + length])) if length else None


def _by_stride(array: Array) -> list[int]:
    """The axes from the outermost in memory to the innermost; an expanded one (stride 0) keeps its place."""
    if array.flags.c_contiguous or any(stride <= 0 for stride in array.strides):
        return list(range(array.ndim))
    return sorted(range(array.ndim), key=lambda axis: (-array.strides[axis], axis))


def _view(memory: Array, at: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if dtype.hasobject:  # the bytes would be taken for addresses; they may have come from another host
        raise JobError(f"arrays in shared memory hold numbers; these bytes say that they hold {dtype}.")
    return np.ndarray(shape, dtype, memory, at)
