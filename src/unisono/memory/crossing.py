"""What crosses between two stages, in shared memory: one copy in, none out, nothing pickled.

Beside the arrays' bytes, in the order in which they lie in memory, is a JSON text: what they are, and plain values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from unisono.errors import JobError
from unisono.memory.packing import places_for, text_and_pieces
from unisono.values.arrays import Array

MOST_AXES = 8
"""Of an array that crosses as it is."""

_LIMIT = "what crosses between two stages may take {:,} bytes; this takes {:,}. Use more microbatches."


def write(arrays: Sequence[Array | None], plain: Any, into: Array) -> int:
    """Write arrays and plain values; returns the bytes that they take.

    Args:
        arrays: any dtype and strides; None stays None.
        plain: what JSON can hold.
        into: uint8 array, 64-byte aligned.

    Raises:
        JobError: they do not fit, or `plain` is nothing that JSON can hold.
    """
    heads = [array if array is None else (array.dtype.str, array.shape, _by_stride(array)) for array in arrays]
    try:
        text = json.dumps([heads, plain]).encode()
    except (TypeError, ValueError) as error:
        raise JobError(
            f"between stages pass tensors and values that JSON can hold; received {plain!r} ({error}). Cut the model "
            "elsewhere, or make the value again in the next stage."
        ) from error
    lying = [array.transpose(_by_stride(array)) for array in arrays if array is not None]
    places, end = places_for([each.nbytes for each in lying], text, into, _LIMIT)
    for place, each in zip(places, lying, strict=True):
        np.copyto(_view(place, each.dtype, each.shape), each)
    return end


def read(source: Array) -> tuple[tuple[Array | None, ...], Any]:
    """Read what `write` wrote; the arrays are views of `source`, with their axes in the order they had in memory."""
    text, pieces = text_and_pieces(source)
    heads, plain = json.loads(text)
    left = iter(pieces)
    return tuple(head if head is None else _array(next(left), *head) for head in heads), plain


def _array(piece: Array, dtype: str, shape: Sequence[int], axes: Sequence[int]) -> Array:
    lying = _view(piece, np.dtype(dtype), tuple(shape[axis] for axis in axes))
    return lying.transpose(np.argsort(axes)) if axes else lying


def _by_stride(array: Array) -> list[int]:
    """The axes from the outermost in memory to the innermost; an expanded one (stride 0) keeps its place."""
    if array.flags.c_contiguous or any(stride <= 0 for stride in array.strides):
        return list(range(array.ndim))
    return sorted(range(array.ndim), key=lambda axis: (-array.strides[axis], axis))


def _view(memory: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if dtype.hasobject:  # the bytes would be taken for addresses; they may have come from another host
        raise JobError(f"arrays in shared memory hold numbers; these bytes say that they hold {dtype}.")
    return np.ndarray(shape, dtype, memory)
