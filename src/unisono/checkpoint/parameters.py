"""Tensors in safetensors files, and the hash that says whether two sets of parameters are the same bits."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unisono.frameworks.protocol import Array

SAFETENSORS_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32",
    "uint64": "U64", "bool": "BOOL", "complex64": "C64",
}  # fmt: skip

COPIERS = 2
"""Threads that copy: more than one core can move more bytes."""

PIECE_BYTES = 4 << 20
"""What is written and hashed at a time: it stays in the cache between the two."""


@dataclass
class Tensors:
    """Arrays by name, and the dtypes that their bits stand for (bfloat16 lies in uint16 arrays)."""

    arrays: dict[str, Array] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, array: Array, dtype: str) -> None:
        """Add a tensor."""
        self.arrays[name], self.dtypes[name] = array, dtype

    def room(self) -> Tensors:
        """Zeros in memory of their own, for a copy of the values."""
        return Tensors({name: np.full_like(array, 0) for name, array in self.arrays.items()}, dict(self.dtypes))

    def copy_into(self, other: Tensors) -> None:
        """Copy the values into the arrays of another set, which are made where none or another one is there; what this
        set does not have goes."""
        for name in set(other.arrays) - set(self.arrays):
            del other.arrays[name], other.dtypes[name]
        for name, array in self.arrays.items():
            there = other.arrays.get(name)
            if there is None or (there.shape, there.dtype) != (array.shape, array.dtype):
                other.add(name, np.empty_like(array), self.dtypes[name])
        left = iter(self.arrays.items())

        def copy() -> None:
            for name, array in left:  # each takes the next one: handing over thousands costs more than copying them
                np.copyto(other.arrays[name], array)

        with ThreadPoolExecutor(COPIERS) as pool:  # NumPy copies without the interpreter's lock
            for copier in [pool.submit(copy) for _ in range(COPIERS)]:
                copier.result()


@dataclass(frozen=True)
class Written:
    """A file that is on disk: its size and the SHA-256 of all of it."""

    bytes: int
    sha256: str


def write(path: Path, tensors: Tensors) -> Written:
    """Write tensors to a new safetensors file and sync it; it is hashed on the way, never read back.

    Raises:
        OSError: the disk does not take it.
    """
    order = sorted(tensors.arrays, key=lambda name: (-tensors.arrays[name].itemsize, name))  # each aligned to its size
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for data in (_header(tensors, order), *(_bytes(tensors.arrays[name]) for name in order)):
            for start in range(0, len(data), PIECE_BYTES):
                piece = data[start : start + PIECE_BYTES]
                file.write(piece)
                digest.update(piece)
            size += len(data)
        file.flush()
        os.fsync(file.fileno())
    return Written(size, digest.hexdigest())


def _header(tensors: Tensors, order: Sequence[str]) -> memoryview:
    """What a safetensors file begins with: the length of the rest, and where each tensor lies after it."""
    entries, at = {}, 0
    for name in order:
        array = tensors.arrays[name]
        entries[name] = {
            "dtype": SAFETENSORS_NAMES[tensors.dtypes[name]], "shape": array.shape,
            "data_offsets": [at, at + array.nbytes],
        }  # fmt: skip
        at += array.nbytes
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)


def _bytes(array: Array) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def save(path: Path, tensors: Tensors) -> None:
    """Write tensors to one side, sync, rename.

    Raises:
        OSError: the disk does not take it; nothing is left beside.
    """
    _replace(path, lambda aside: write(aside, tensors))


def link(path: Path, target: Path) -> None:
    """Give a file that nobody writes to a second name; a copy where the file system has one name a file.

    Args:
        path: the second name; a file that has it loses it.
        target: the file, which is on disk.

    Raises:
        OSError: the disk does not take it; nothing is left beside.
    """

    def made(aside: Path) -> None:
        try:
            os.link(target, aside)
        except OSError:
            shutil.copyfile(target, aside)
            sync(aside)

    _replace(path, made)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    aside = path.with_name(path.name + ".tmp")
    aside.unlink(missing_ok=True)
    try:
        make(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)  # also where both names were the same file's: then nothing is renamed
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sha256_of(tensors: Tensors) -> str:
    """The parameter hash.

    SHA-256 over the tensors in name order, each as: name (UTF-8), NUL, safetensors dtype name ("F32"), NUL, shape
    as decimal numbers joined by commas, NUL, the little-endian bytes.

    >>> import numpy as np
    >>> sha256_of(Tensors({"w": np.zeros(2, "float32")}, {"w": "float32"}))[:8]
    '4ae5fd52'
    """
    digest = hashlib.sha256()
    for name in sorted(tensors.arrays):
        array = tensors.arrays[name]
        digest.update(label(name, SAFETENSORS_NAMES[tensors.dtypes[name]], array.shape))
        digest.update(_bytes(array))
    return digest.hexdigest()


def label(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    """What the parameter hash takes of a tensor before its bytes; see `sha256_of`."""
    return f"{name}\0{dtype}\0{','.join(map(str, shape))}\0".encode()
