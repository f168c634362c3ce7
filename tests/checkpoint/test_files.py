"""Safetensors files are read within their own size, whatever their headers say."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from unisono.checkpoint.files import entries, load, sha256_of_file
from unisono.checkpoint.parameters import SAFETENSORS_NAMES, Tensors, save, sha256_of
from unisono.values.untrusted import Malformed

NUMBERS = st.integers(-1, 20) | st.integers(-(2**70), 2**70)
ENTRIES = st.fixed_dictionaries({
    "dtype": st.sampled_from([*SAFETENSORS_NAMES.values(), "F8_E4M3", "O"]),
    "shape": st.lists(NUMBERS, max_size=3),
    "data_offsets": st.lists(NUMBERS, max_size=3) | st.just([0, 4]),
})  # fmt: skip
HEADERS = st.dictionaries(st.text(max_size=3), ENTRIES | st.integers() | st.none(), max_size=3)


@given(st.binary() | HEADERS.map(json.dumps).map(str.encode), st.integers(0, 40))
def test_a_header_is_of_its_file_or_malformed(header: bytes, size: int) -> None:
    try:
        found = entries(header, size)
    except Malformed:
        return
    assert sum(entry.stop - entry.start for entry in found) == size
    for entry in found:
        assert 0 <= entry.start <= entry.stop <= size
        assert np.zeros(entry.shape, entry.storage).nbytes == entry.stop - entry.start


@given(
    st.lists(st.tuples(st.sampled_from(list(SAFETENSORS_NAMES)), st.lists(st.integers(0, 3), max_size=3)), max_size=4)
)
def test_what_is_written_is_read_and_hashed_as_it_was(tmp_path_factory: pytest.TempPathFactory, shapes: Any) -> None:
    path, tensors = tmp_path_factory.mktemp("file") / "p", Tensors()
    for number, (dtype, shape) in enumerate(shapes):
        storage = "uint16" if dtype == "bfloat16" else dtype
        tensors.add(f"{number} ü", np.arange(np.prod(shape, dtype=int)).astype(storage).reshape(shape), dtype)
    save(path, tensors)
    loaded = load(path)
    assert loaded.dtypes == tensors.dtypes
    assert all(np.array_equal(loaded.arrays[name], array) for name, array in tensors.arrays.items())
    assert sha256_of(loaded) == sha256_of_file(path) == sha256_of(tensors)


def written(header: Any, values: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def entry(dtype: str, shape: list[Any], *offsets: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(("data", "text"), [
    (b"", "no safetensors file"), (b"abc", "no safetensors file"), (b"\xff" * 8, "no safetensors file"),
    ((2**40).to_bytes(8, "little") + b"{}", "its header would be 1,099,511,627,776"),
    (written(b"[" * 10**5), "nested more than"), (written(b"\xff{}"), "not JSON"), (written([]), "must be an object"),
    (written({"w": []}), "'w' must be an object"),
    (written({"w": entry("F32", [2**30, 2**30], 0, 2**62)}), r"names 4,611,686,018,427,387,904 bytes.*there are 0"),
    (written({"w": entry("F32", [2**40], 0, 8)}, b"\0" * 8), "which are no F32 of"),
    (written({"w": entry("F32", [-1, -2], 0, 8)}, b"\0" * 8), "no tensor of Unisono's"),
    (written({"w": entry("F8_E4M3", [8], 0, 8)}, b"\0" * 8), "no tensor of Unisono's"),
    (written({"w": entry("F32", [True], 0, 4)}, b"\0" * 4), r"'w\.shape\[\]' must be a whole number"),
    (written({"w": entry("F32", [1], 0, 4), "v": entry("F32", [1], 0, 4)}, b"\0" * 4), "must begin at byte 4"),
    (written({"w": entry("F32", [1], 4, 8)}, b"\0" * 8), "must begin at byte 0"),
    (written({"w": entry("F32", [1], 0, 4)}, b"\0" * 8), "names 4 bytes of tensors; there are 8"),
    (written({"\x1b[2J": entry("F33", [1], 0, 4)}, b"\0" * 4), r"\\x1b\[2J"),
])  # fmt: skip
@pytest.mark.parametrize("reader", [load, sha256_of_file])
def test_what_is_no_file_of_tensors_is_named(
    tmp_path: Path, reader: Callable[[Path], object], data: bytes, text: str
) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(data)
    with pytest.raises(Malformed, match=rf"p\.safetensors: .*{text}"):
        reader(path)


def test_nothing_is_allocated_for_what_is_only_promised(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(written({"w": entry("F32", [2**34], 0, 2**36)}, b"\0" * 8))
    tracemalloc.start()
    with pytest.raises(Malformed):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


def test_a_file_that_holds_much_is_hashed_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(written({"w": entry("U8", [2**26], 0, 2**26)}))
    os.truncate(path, path.stat().st_size + 2**26)  # sparse
    tracemalloc.start()
    assert sha256_of_file(path) == sha256_of(Tensors({"w": np.zeros(2**26, np.uint8)}, {"w": "uint8"}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26 + 2**24, "only what it is compared with is held"


def test_metadata_of_others_are_left_alone(tmp_path: Path) -> None:
    save_file({"w": np.zeros(1, np.float32)}, tmp_path / "p", {"format": "pt"})
    assert list(load(tmp_path / "p").arrays) == ["w"]
