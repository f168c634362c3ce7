"""Structures with tensors, written into a piece of shared memory and read back by another process.

The skeleton is pickled (between Unisono's own processes only, never from disk or network); the arrays' bytes lie
beside it, each on a 64-byte boundary, and are never pickled.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from unisono.errors import JobError
from unisono.memory.segment import aligned
from unisono.values.arrays import Array

_LIMIT = "a microbatch's samples may take {:,} bytes; these take {:,}. Use more microbatches."

Reducers = Mapping[type, Callable[[Any], Any]]
"""How objects of a class are sent: as in `copyreg.dispatch_table`."""


def pack(value: Any, into: Array, reducers: Reducers) -> None:
    """Write a structure.

    Args:
        value: what to write.
        into: uint8 array, 64-byte aligned.
        reducers: how the framework's tensors are sent as arrays.

    Raises:
        JobError: it does not fit.
    """
    skeleton, raws = _pickled(value, reducers)
    places, _ = places_for([len(raw) for raw in raws], skeleton, into, _LIMIT)
    for place, raw in zip(places, raws, strict=True):
        memoryview(place)[:] = raw  # type: ignore[arg-type]


def packed_bytes(value: Any, reducers: Reducers) -> int:
    """Bytes of a structure's tensors.

    >>> import numpy as np
    >>> packed_bytes({"a": np.zeros(3)}, {})
    24
    """
    return sum(map(len, _pickled(value, reducers)[1]))


def dumps(value: Any, reducers: Reducers) -> bytes:
    """A small structure as bytes for `pickle.loads`; tensors are sent as in `pack`."""
    return _pickled(value, reducers, apart=False)[0]


def _pickled(value: Any, reducers: Reducers, apart: bool = True) -> tuple[bytes, list[memoryview]]:
    """The skeleton and, apart from it, the arrays' bytes."""
    file, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    pickler = pickle.Pickler(file, protocol=5, buffer_callback=buffers.append if apart else None)
    pickler.dispatch_table = {**copyreg.dispatch_table, **reducers}
    pickler.dump(value)
    return file.getvalue(), [buffer.raw() for buffer in buffers]


def unpack(source: Array) -> Any:
    """Read a structure that `pack` wrote; its arrays are views of `source` until the framework copies them."""
    skeleton, pieces = text_and_pieces(source)
    return pickle.loads(skeleton, buffers=map(memoryview, pieces))  # type: ignore[arg-type]


def places_for(sizes: Sequence[int], text: bytes, into: Array, limit: str) -> tuple[list[Array], int]:
    """Write a text, and leave room beside it for pieces of so many bytes, each on a 64-byte boundary.

    Args:
        sizes: of the pieces.
        text: it.
        into: uint8 array, 64-byte aligned.
        limit: what to say where they do not fit: of how many bytes there may be, and how many these are.

    Returns:
        The pieces' places, and how many bytes all takes.

    Raises:
        JobError: they do not fit.
    """
    data = struct.pack(f"={2 + len(sizes)}q", len(sizes), len(text), *sizes) + text
    *starts, end = accumulate(map(aligned, sizes), initial=aligned(len(data)))
    if end > into.size:
        raise JobError(limit.format(into.size, end))
    memoryview(into)[: len(data)] = data  # type: ignore[arg-type]
    return [into[start : start + size] for start, size in zip(starts, sizes, strict=True)], end


def text_and_pieces(source: Array) -> tuple[bytes, list[Array]]:
    """What lies where `places_for` has made room."""
    raw = memoryview(source)  # type: ignore[arg-type]
    count, length = struct.unpack_from("=2q", raw)
    sizes, begin = struct.unpack_from(f"={count}q", raw, 16), 16 + 8 * count
    starts = accumulate(map(aligned, sizes), initial=aligned(begin + length))
    pieces = [source[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    return bytes(raw[begin : begin + length]), pieces
