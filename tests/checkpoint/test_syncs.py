"""Checkpoints on disk: nothing has its name before it is synced; each byte is written and hashed once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.checkpoint import parameters, store
from unisono.checkpoint.parameters import Tensors, link, save
from unisono.checkpoint.store import Standing

LARGE = 3 * parameters.PIECE_BYTES + 20
FILES = (store.PARAMETERS, store.OPTIMIZER, store.STATE)


def tensors(elements: int = 4) -> Tensors:
    return Tensors({"w": np.arange(elements, dtype="uint8")}, {"w": "uint8"})


def written(folder: Path, elements: int = 4) -> Path:
    return store.write(folder, Standing(3, False, 1), {}, {}, tensors(elements), tensors(2 * elements))


def path_of(file: int) -> str:
    return str(Path(f"/proc/self/fd/{file}").readlink())


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """("sync", path) and ("rename", from, to), in the order in which they are done."""
    seen: list[tuple[str, ...]] = []
    fsync = os.fsync

    def synced(file: int) -> None:
        fsync(file)
        seen.append(("sync", path_of(file)))

    def renamed(rename: Callable[[Path, Any], Path]) -> Callable[[Path, Any], Path]:
        def told(path: Path, to: Any) -> Path:
            seen.append(("rename", str(path), str(to)))
            return rename(path, to)

        return told

    monkeypatch.setattr(os, "fsync", synced)
    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, renamed(getattr(Path, name)))
    return seen


def test_a_checkpoint_is_on_disk_before_it_has_its_name(tmp_path: Path, done: list[tuple[str, ...]]) -> None:
    path = written(tmp_path)
    aside = tmp_path / f".{path.name}.tmp"
    assert sorted(done[:2]) == sorted(("sync", str(aside / name)) for name in (store.PARAMETERS, store.OPTIMIZER))
    assert done[2:] == [
        ("sync", str(aside / store.STATE)), ("sync", str(aside)), ("rename", str(aside), str(path)),
        ("sync", str(tmp_path)),
    ]  # fmt: skip


def test_one_that_was_there_is_whole_until_the_new_one_is_on_disk(
    tmp_path: Path, done: list[tuple[str, ...]]
) -> None:  # fmt: skip
    written(tmp_path)
    done.clear()
    path = written(tmp_path, 8)
    aside, old = tmp_path / f".{path.name}.tmp", tmp_path / f".{path.name}.old"
    assert done[3:] == [
        ("sync", str(aside)), ("rename", str(path), str(old)), ("rename", str(aside), str(path)),
        ("sync", str(tmp_path)),
    ]  # fmt: skip
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_final_parameters_are_on_disk_before_they_have_their_name(
    tmp_path: Path, done: list[tuple[str, ...]], links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*paths: Any) -> None:
        raise PermissionError("this file system has no hard links")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    target, path = written(tmp_path / "checkpoints") / store.PARAMETERS, tmp_path / store.PARAMETERS
    save(path, tensors(8))
    aside = f"{path}.tmp"
    Path(aside).write_bytes(b"of a run that was killed here")
    done.clear()
    link(path, target)
    copied = [] if links else [("sync", aside)]
    assert done == [*copied, ("rename", aside, str(path)), ("sync", str(tmp_path))]
    assert path.read_bytes() == target.read_bytes()
    assert path.samefile(target) == links
    link(path, target)  # again, as where a run is resumed that was over
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["checkpoints", store.PARAMETERS]


def test_parameters_that_are_saved_alone_leave_a_checkpoint_that_had_their_name(
    tmp_path: Path, done: list[tuple[str, ...]]
) -> None:
    target, path = written(tmp_path / "checkpoints") / store.PARAMETERS, tmp_path / store.PARAMETERS
    link(path, target)
    done.clear()
    save(path, tensors(8))
    assert done == [("sync", f"{path}.tmp"), ("rename", f"{path}.tmp", str(path)), ("sync", str(tmp_path))]
    assert store.read(target.parent).parameters.arrays["w"].size == 4


def test_each_byte_is_hashed_once_and_none_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256, fed = hashlib.sha256, []

    class Counted:
        def __init__(self, data: bytes = b"") -> None:
            self._digest = sha256(data)

        def update(self, data: Any) -> None:
            fed.append(len(data))
            self._digest.update(data)

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", Counted)
        patch.setattr(hashlib, "file_digest", None)
        path = written(tmp_path, LARGE)
    assert sum(fed) == sum((path / name).stat().st_size for name in (store.PARAMETERS, store.OPTIMIZER))
    assert store.read(path).parameters.arrays["w"].size == LARGE, "the digests are those of the files"


@pytest.mark.parametrize("name", FILES)
def test_a_disk_that_takes_one_file_less_leaves_what_was_there(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    fsync = os.fsync

    def full(file: int) -> None:
        if path_of(file).endswith(name):
            raise OSError("No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        written(tmp_path, 8)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert store.read(path).parameters.arrays["w"].size == 4
