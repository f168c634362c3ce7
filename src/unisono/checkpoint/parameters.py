"""Tensors in safetensors files, and the hash that says whether two sets of parameters are the same bits."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
from safetensors import TensorSpec

from unisono.errors import UsageError
from unisono.frameworks.protocol import Array

_SAFETENSORS_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32",
    "uint64": "U64", "bool": "BOOL",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _SAFETENSORS_NAMES.items()}


COPIERS = 2
"""Threads that copy: more than one core can move more bytes."""


@dataclass
class Tensors:
    """Arrays by name, and the dtypes that their bits stand for (bfloat16 lies in uint16 arrays)."""

    arrays: dict[str, Array] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, array: Array, dtype: str) -> None:
        """Add a tensor."""
        self.arrays[name], self.dtypes[name] = array, dtype

    def copy_into(self, other: Tensors) -> None:
        """Copy the values into the arrays of another set, which are made where they are missing."""
        for name, array in self.arrays.items():
            if name not in other.arrays:
                other.add(name, np.empty_like(array), self.dtypes[name])
        with ThreadPoolExecutor(COPIERS) as pool:  # NumPy copies without the interpreter's lock
            list(pool.map(lambda name: np.copyto(other.arrays[name], self.arrays[name]), self.arrays))


def save(path: Path, tensors: Tensors) -> None:
    """Write tensors to one side, sync, rename.

    Raises:
        OSError: the disk does not take it; nothing is left beside.
    """
    held = {name: np.ascontiguousarray(array) for name, array in tensors.arrays.items()}  # alive until written
    described = {
        name: TensorSpec(
            dtype=tensors.dtypes[name], shape=tensors.arrays[name].shape, data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in held.items()
    }  # fmt: skip
    aside = path.with_name(path.name + ".tmp")
    try:
        try:
            safetensors.serialize_file(described, str(aside))
        except safetensors.SafetensorError as error:
            raise OSError(f"{aside}: {error}") from error
        sync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def load(path: Path) -> Tensors:
    """Read a safetensors file.

    Raises:
        UsageError: missing or damaged.
    """
    try:
        entries = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(
            f"{path} must be a safetensors file; received: {error}. Train first, or name another run."
        ) from error
    tensors = Tensors()
    for name, entry in entries:
        dtype = _DTYPES[entry["dtype"]]
        storage = "uint16" if dtype == "bfloat16" else dtype
        array = np.frombuffer(bytes(entry["data"]), storage).reshape(entry["shape"])
        tensors.add(name, array, dtype)
    return tensors


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
        dtype = _SAFETENSORS_NAMES[tensors.dtypes[name]]
        digest.update(f"{name}\0{dtype}\0{','.join(map(str, array.shape))}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
