"""Parameters in a safetensors file, and the hash that says whether two of them are the same bits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
from safetensors import TensorSpec

from unisono.errors import UsageError
from unisono.frameworks.protocol import Array

_SAFETENSORS_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def save(path: Path, tensors: Mapping[str, Array], dtypes: Mapping[str, str]) -> None:
    """Write tensors to one side, sync, rename.

    Args:
        path: the file to make.
        tensors: by name; bfloat16 as uint16 arrays.
        dtypes: dtype names by tensor name.
    """
    held = {name: np.ascontiguousarray(array) for name, array in tensors.items()}  # alive until they are written
    described = {
        name: TensorSpec(
            dtype=dtypes[name], shape=tensors[name].shape, data_ptr=array.ctypes.data, data_len=array.nbytes
        )
        for name, array in held.items()
    }
    aside = path.with_name(path.name + ".tmp")
    try:
        safetensors.serialize_file(described, str(aside))
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """A safetensors file as name → (safetensors dtype, shape, little-endian bytes).

    Raises:
        UsageError: missing or damaged.
    """
    try:
        data = path.read_bytes()
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(
            f"{path} must be a safetensors file; received: {error}. Train first, or name another run."
        ) from error
    return {name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in entries}


def sha256(path: Path) -> str:
    """The parameter hash of a file.

    SHA-256 over its tensors in name order, each as: name (UTF-8), NUL, safetensors dtype name ("F32"), NUL, shape
    as decimal numbers joined by commas, NUL, the little-endian bytes.
    """
    digest = hashlib.sha256()
    entries = read(path)
    for name in sorted(entries):
        dtype, shape, data = entries[name]
        _feed(digest, name, dtype, shape, data)
    return digest.hexdigest()


def sha256_of(tensors: Mapping[str, Array], dtypes: Mapping[str, str]) -> str:
    """The parameter hash of arrays in memory; the same as that of the file they would make.

    >>> import numpy as np
    >>> sha256_of({"w": np.zeros(2, "float32")}, {"w": "float32"})[:8]
    '4ae5fd52'
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        _feed(digest, name, _SAFETENSORS_NAMES[dtypes[name]], tensors[name].shape, tensors[name].tobytes())
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> None:
    head = f"{name}\0{dtype}\0{','.join(map(str, shape))}\0"
    digest.update(head.encode())
    digest.update(data)
