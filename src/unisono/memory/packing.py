"""Structures with tensors, written into a piece of shared memory and read back by another process.

The skeleton is pickled (between Unisono's own processes only, never from disk or network); the arrays' bytes lie
beside it, each on a 64-byte boundary, and are never pickled.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any

from unisono.errors import JobError
from unisono.memory.segment import aligned
from unisono.values.arrays import Array

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
    head = struct.pack(f"={2 + len(raws)}q", len(raws), len(skeleton), *(len(raw) for raw in raws))
    at = aligned(len(head) + len(skeleton))
    needed = at + sum(aligned(len(raw)) for raw in raws)
    if needed > into.size:
        raise JobError(
            f"a microbatch's samples may take {into.size:,} bytes; these take {needed:,}. Use more microbatches."
        )
    target = memoryview(into)  # type: ignore[arg-type]
    target[: len(head)] = head
    target[len(head) : len(head) + len(skeleton)] = skeleton
    for raw in raws:
        target[at : at + len(raw)] = raw
        at += aligned(len(raw))


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
    raw = memoryview(source)  # type: ignore[arg-type]
    count, skeleton = struct.unpack_from("=2q", raw)
    lengths = struct.unpack_from(f"={count}q", raw, 16)
    start = 16 + 8 * count
    at = aligned(start + skeleton)
    buffers = []
    for length in lengths:
        buffers.append(memoryview(source[at : at + length]))  # type: ignore[arg-type]
        at += aligned(length)
    return pickle.loads(source[start : start + skeleton].tobytes(), buffers=buffers)
