"""Saved parameters: loadable by safetensors, hashed as documented, whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file

from unisono.checkpoint import parameters
from unisono.checkpoint.files import load
from unisono.checkpoint.parameters import Tensors, save, sha256_of
from unisono.values.untrusted import Malformed

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
    with pytest.raises(Malformed, match=r"p\.safetensors"):
        load(path)


def test_many_small_arrays_are_not_handed_over_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[object] = []
    submit = ThreadPoolExecutor.submit
    monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda *given: handed.append(given) or submit(*given))
    many, held = Tensors({f"{n}": np.full(3, n) for n in range(500)}, {f"{n}": "int64" for n in range(500)}), Tensors()
    many.copy_into(held)
    assert sha256_of(held) == sha256_of(many)
    assert len(handed) <= parameters.COPIERS


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
    signed, unsigned = (tuple(f"{kind}{bits}" for bits in (8, 16, 32, 64)) for kind in ("int", "uint"))
    for dtype in ("float64", "float32", "float16", *signed, *unsigned):
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


def test_a_file_is_laid_out_for_readers_that_map_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "PIECE_BYTES", 5)
    tensors = Tensors()
    for number, dtype in enumerate(("uint8", "float64", "int16", "float32")):
        tensors.add(f"{dtype} ü", np.arange(3 + number, dtype=dtype), dtype)
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda file: synced.append(os.fstat(file).st_size))
    told = parameters.write(tmp_path / "p", tensors)
    data = (tmp_path / "p").read_bytes()
    assert synced == [len(data)], "nothing is in the process's own memory any more"
    assert (told.bytes, told.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert list(entries) == ["float64 ü", "float32 ü", "int16 ü", "uint8 ü"], "the widest first: each at its alignment"
    for name, entry in entries.items():
        start, stop = entry["data_offsets"]
        assert start % tensors.arrays[name].itemsize == 0
        assert data[8 + length :][start:stop] == tensors.arrays[name].tobytes()
    assert sha256_of(load(tmp_path / "p")) == sha256_of(tensors)
    with pytest.raises(FileExistsError):
        parameters.write(tmp_path / "p", tensors)


def test_room_is_zeros_of_its_own() -> None:
    room = TENSORS.room()
    assert room.dtypes == TENSORS.dtypes
    for name, array in TENSORS.arrays.items():
        assert (room.arrays[name].dtype, room.arrays[name].shape) == (array.dtype, array.shape)
        assert not room.arrays[name].any()


def test_a_second_name_is_the_same_file_or_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, path = tmp_path / "target", tmp_path / "path"
    target.write_bytes(b"new")
    path.write_bytes(b"old")
    (tmp_path / "path.tmp").write_bytes(b"left by a run that was killed")
    for _ in range(2):
        parameters.link(path, target)
        assert path.samefile(target)
        assert sorted(tmp_path.iterdir()) == [path, target]
    target.unlink()
    target.write_bytes(b"newer")

    def refuse(*names: Path) -> None:
        raise OSError("one name a file")

    monkeypatch.setattr("os.link", refuse)
    parameters.link(path, target)
    assert path.read_bytes() == b"newer"
    assert not path.samefile(target)
    assert sorted(tmp_path.iterdir()) == [path, target]


def test_what_is_synced_is_not_held_open(tmp_path: Path) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    parameters.sync(tmp_path)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
