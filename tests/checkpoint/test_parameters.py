"""Saved parameters: loadable by safetensors, hashed as documented, whole or not there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file

from unisono.checkpoint.parameters import Tensors, load, save, sha256_of
from unisono.errors import UsageError

TENSORS = Tensors(
    {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array([0x3F80, 0xBF80], np.uint16),
        "count": np.array(7, np.int64),
        "mask": np.array([True, False]),
    },
    {"b.weight": "float32", "a": "bfloat16", "count": "int64", "mask": "bool"},
)


def test_saved_tensors_load_elsewhere_and_hash_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    save(path, TENSORS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.safetensors"]
    loaded = load_file(path)
    assert torch.equal(loaded["a"], torch.tensor([1.0, -1.0], dtype=torch.bfloat16))
    assert loaded["count"] == 7
    assert loaded["b.weight"].shape == (2, 3)
    digest = hashlib.sha256()
    for name, t in sorted(safetensors.deserialize(path.read_bytes())):
        digest.update(f"{name}\0{t['dtype']}\0{','.join(map(str, t['shape']))}\0".encode() + t["data"])
    assert sha256_of(load(path)) == sha256_of(TENSORS) == digest.hexdigest()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(b"no")
    with pytest.raises(UsageError, match=r"p\.safetensors"):
        load(path)


def test_a_copy_is_made_once_and_its_arrays_used_again() -> None:
    held = Tensors()
    TENSORS.copy_into(held)
    arrays = dict(held.arrays)
    assert held.dtypes == TENSORS.dtypes
    for change in (0, 1):
        arrays_now = {name: (array + change).astype(array.dtype) for name, array in TENSORS.arrays.items()}
        changed = Tensors(arrays_now, TENSORS.dtypes)
        changed.copy_into(held)
        assert all(held.arrays[name] is array for name, array in arrays.items())
        assert sha256_of(held) == sha256_of(changed)


def test_every_dtype_and_any_strides_are_saved(tmp_path: Path) -> None:
    tensors = Tensors()
    for dtype in (
        "float64",
        "float32",
        "float16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    ):
        tensors.add(dtype, np.arange(6, dtype=dtype).reshape(2, 3).T, dtype)
    save(tmp_path / "p.safetensors", tensors)
    loaded = load(tmp_path / "p.safetensors")
    assert loaded.dtypes == tensors.dtypes
    for name, array in tensors.arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert (loaded.arrays[name] == array).all()
    assert sha256_of(loaded) == sha256_of(tensors)


def test_a_disk_that_takes_nothing_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "p.safetensors.tmp").mkdir()  # nothing can be written there
    with pytest.raises(OSError, match=r"p\.safetensors\.tmp"):
        save(tmp_path / "p.safetensors", TENSORS)
    assert not (tmp_path / "p.safetensors").exists()
