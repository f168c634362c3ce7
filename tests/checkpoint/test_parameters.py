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
