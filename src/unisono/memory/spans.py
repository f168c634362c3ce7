"""Which memory arrays span: views of one storage share it, so what they hold together is that memory, once.

A view is pickled as its place in a *piece* of memory. Pieces are what views span together, so all rows of a table go
as the table, a thousand windows over a text as the text, and ten rows of a large table as ten rows.
"""

from __future__ import annotations

import ctypes
import mmap
import pickle
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unisono.memory.segment import ALIGNMENT
from unisono.values.arrays import Array

View = tuple[Array, Callable[..., Any], tuple[Any, ...]]
"""An array over an object's memory, and (array, *arguments) → the object."""

Views = Mapping[type, Callable[[Any], View | None]]
"""How objects of a class are seen as arrays over their own memory; None = they travel as they say themselves."""

SPARSE = 2
"""Views that hold less than one byte in so many of what they span travel one by one."""


class Span(NamedTuple):
    """Memory from an address to another one, and how many bytes in it a view holds, or several together.

    >>> Span.of(np.zeros((4, 8), np.uint8)[:, 2]).held
    4
    """

    start: int
    stop: int
    held: int

    @staticmethod
    def of(array: Array) -> Span:
        """The memory of an array that has elements."""
        steps = [(count - 1) * stride for count, stride in zip(array.shape, array.strides, strict=True)]
        start = array.ctypes.data + sum(step for step in steps if step < 0)
        stop = array.ctypes.data + sum(step for step in steps if step > 0) + array.itemsize
        return Span(start, stop, _core(array).nbytes)


def _core(array: Array) -> Array:
    """An array without the repetitions that a stride of 0 makes."""
    return array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]


def united(spans: list[Span]) -> list[Span]:
    """Spans that touch become one.

    >>> united([Span(8, 12, 4), Span(0, 4, 4), Span(2, 8, 3)])
    [Span(start=0, stop=12, held=11)]
    """
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.start <= found[-1].stop:
            last = found[-1]
            found[-1] = Span(last.start, max(last.stop, span.stop), last.held + span.held)
        else:
            found.append(span)
    return found


@dataclass
class Piece:
    """Memory that travels as it is, with its place in a line of the cache: kernels give other bits at other places.

    Args:
        start: its address.
        size: its bytes.
        owner: what keeps them, if nobody else does.
    """

    start: int
    size: int
    owner: Any = None

    def __reduce__(self) -> Any:
        bytes_ = (ctypes.c_uint8 * self.size).from_address(self.start)
        return _placed, (pickle.PickleBuffer(bytes_), self.start % ALIGNMENT)


def _placed(buffer: Any, at: int) -> Array:
    held = np.frombuffer(buffer, np.uint8)
    if held.ctypes.data % ALIGNMENT == at and held.flags.writeable:
        return held
    room = np.empty(held.size + ALIGNMENT, np.uint8)
    skip = (at - room.ctypes.data) % ALIGNMENT
    room[skip : skip + held.size] = held
    return room[skip : skip + held.size]


class MappedFile:
    """A file that is mapped into memory travels by its name.

    Args:
        array: an array of a mapping.
    """

    def __init__(self, array: np.memmap[Any, Any]) -> None:
        self.name, self.mode = str(array.filename), "r" if array.mode == "r" else "r+"
        mapped: Any = array._mmap  # type: ignore[attr-defined]
        self.start = np.frombuffer(mapped, np.uint8).ctypes.data
        self.size = len(mapped)
        self.offset = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY

    def __reduce__(self) -> Any:
        return _opened, (self.name, self.mode, self.offset, self.size)


def _opened(name: str, mode: Any, offset: int, size: int) -> Array:
    return np.memmap(name, np.uint8, mode, offset, (size,))


def mapping_of(array: Array) -> np.memmap[Any, Any] | None:
    """The mapping of a file that an array is a view of, where the file is what other processes see too."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and getattr(base, "_mmap", None) is not None:
            named = base.filename is not None and base.mode != "c" and Path(base.filename).exists()
            return base if named else None
        base = base.base
    return None


class Pieces:
    """The pieces in which views travel.

    Args:
        spans: what all views span.
    """

    def __init__(self, spans: list[Span]) -> None:
        self._spans = united(spans)
        self._starts = [span.start for span in self._spans]
        self._pieces: dict[int, Piece] = {}
        self._files: dict[int, MappedFile] = {}

    def view(self, array: Array) -> tuple[Any, ...]:
        """What `viewed` makes the array of again."""
        if (mapped := mapping_of(array)) is not None:
            key = id(mapped._mmap)  # type: ignore[attr-defined]
            if key not in self._files:
                self._files[key] = MappedFile(mapped)
            return _in(self._files[key], array)
        span = Span.of(array)
        index = bisect_right(self._starts, span.start) - 1
        whole = self._spans[index] if index >= 0 else span
        if whole.start <= span.start and span.stop <= whole.stop and whole.held * SPARSE >= whole.stop - whole.start:
            if whole.start not in self._pieces:
                self._pieces[whole.start] = Piece(whole.start, whole.stop - whole.start)
            return _in(self._pieces[whole.start], array)
        copy = _core(array).copy(order="K")
        strides = tuple(own and kept for own, kept in zip(array.strides, copy.strides, strict=True))
        return Piece(copy.ctypes.data, copy.nbytes, copy), 0, array.shape, strides, array.dtype, array.flags.writeable


def _in(piece: Piece | MappedFile, array: Array) -> tuple[Any, ...]:
    offset = array.ctypes.data - piece.start
    return piece, offset, array.shape, array.strides, array.dtype, array.flags.writeable


def viewed(
    piece: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any, writeable: bool
) -> Any:
    """A view as it was, over a piece that has arrived."""
    array: Array = np.ndarray(shape, dtype, piece, offset, strides)
    array.flags.writeable = writeable and array.flags.writeable
    return array
