"""Safetensors files as they are read: what a header promises is held to the file before anything is allocated."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unisono.checkpoint.parameters import PIECE_BYTES, SAFETENSORS_NAMES, Tensors, label
from unisono.values.text import excerpt
from unisono.values.untrusted import Malformed, check, opened, parsed

_DTYPES = {name: dtype for dtype, name in SAFETENSORS_NAMES.items()}
_MOST_HEADER_BYTES = 100_000_000
_ENTRY = {"dtype": str, "shape": [int], "data_offsets": [int]}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        name: its name.
        code: its type as safetensors names it ("F32").
        shape: its shape.
        start, stop: the first of its bytes and the one after the last, counted from the end of the header.
    """

    name: str
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def storage(self) -> np.dtype[np.generic]:
        """The type of the array that holds its bits."""
        dtype = _DTYPES[self.code]
        return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def entries(header: bytes, size: int) -> list[Entry]:
    """The tensors that a header names, in the order in which they lie.

    Args:
        header: JSON.
        size: bytes that follow it.

    Raises:
        Malformed: it is no header, or not one of so many bytes: each belongs to one tensor.

    >>> entries(b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', 8)
    [Entry(name='w', code='F32', shape=(2,), start=0, stop=8)]
    """
    named = check(parsed(header), {str: dict})
    named.pop("__metadata__", None)
    found = sorted((_entry(name, entry) for name, entry in named.items()), key=lambda entry: (entry.start, entry.stop))
    at = 0
    for entry in found:
        if entry.start != at:
            raise Malformed(f"{excerpt(entry.name)} must begin at byte {at}; received {entry.start}")
        at = entry.stop
    if at != size:
        raise Malformed(f"its header names {at:,} bytes of tensors; there are {size:,}")
    return found


def _entry(name: str, entry: object) -> Entry:
    told = check(entry, _ENTRY, name)
    code, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if code not in _DTYPES or len(offsets) != 2 or min(shape, default=0) < 0:
        raise Malformed(f"{excerpt(name)} is no tensor of Unisono's: {excerpt(entry)}")
    found = Entry(name, code, tuple(shape), *offsets)
    if found.stop - found.start != math.prod(shape) * found.storage.itemsize:
        raise Malformed(
            f"{excerpt(name)} has {found.stop - found.start:,} bytes, which are no {code} of {excerpt(shape)}"
        )
    return found


def load(path: Path) -> Tensors:
    """Read a safetensors file.

    Raises:
        Malformed: it is missing, damaged, or something else.
    """
    tensors = Tensors()
    with _file(path) as file:
        begin, found = _header(file)
        for entry in found:
            array = np.empty(entry.shape, entry.storage)
            file.seek(begin + entry.start)
            if file.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:  # type: ignore[attr-defined]
                raise Malformed("it has become shorter")
            tensors.add(entry.name, array, _DTYPES[entry.code])
    return tensors


def sha256_of_file(path: Path) -> str:
    """The parameter hash (see `sha256_of`) of what a file holds; it is read in pieces, and nothing of it is kept.

    Raises:
        Malformed: it is missing, damaged, or something else.
    """
    digest = hashlib.sha256()
    with _file(path) as file:
        begin, found = _header(file)
        for entry in sorted(found, key=lambda entry: entry.name):
            digest.update(label(entry.name, entry.code, entry.shape))
            file.seek(begin + entry.start)
            left = entry.stop - entry.start
            while left and (piece := file.read(min(left, PIECE_BYTES))):
                digest.update(piece)
                left -= len(piece)
    return digest.hexdigest()


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    """A file to be read; what is wrong with it is said with its name."""
    with opened(path) as file:
        try:
            yield file
        except Malformed as error:
            raise Malformed(f"{path}: {error}") from error
        except OSError as error:
            raise Malformed(f"{path}: cannot be read ({error.strerror})") from error


def _header(file: BinaryIO) -> tuple[int, list[Entry]]:
    """Where the bytes after the header begin, and what they are."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
        raise Malformed(f"no safetensors file: {size:,} bytes, of which its header would be {length:,}")
    return 8 + length, entries(file.read(length), size - 8 - length)
