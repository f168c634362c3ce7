"""Checkpoints on disk: read back as they were, whole or not there, and damage is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.checkpoint import store
from unisono.checkpoint.parameters import Tensors
from unisono.checkpoint.store import Damaged, Standing

STANDING = Standing(7, True, 2, (float("inf"), 0.5), {"name": "loss", "value": 0.5, "step": 7}, 1, (1.5, float("-inf")))


def tensors(value: float) -> Tensors:
    return Tensors({"w": np.full(4, value, "float32")}, {"w": "float32"})


def write(folder: Path, step: int = 7, value: float = 1.0) -> Path:
    standing = replace(STANDING, step=step)
    return store.write(folder, standing, {"seed": 1}, {"torch": "2"}, tensors(value), tensors(-value))


def test_a_checkpoint_is_read_back_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "made/where/needed")
    assert path == store.at(tmp_path / "made/where/needed", 7)
    assert path.name == "step-00000007"
    assert sorted(file.name for file in path.iterdir()) == sorted((store.PARAMETERS, store.OPTIMIZER, store.STATE))
    found = store.read(path)
    assert (found.path, found.standing) == (path, STANDING)
    assert (found.job, found.fingerprint) == ({"seed": 1}, {"torch": "2"})
    assert (found.parameters.arrays["w"] == 1).all()
    assert (found.optimizer.arrays["w"] == -1).all()


def test_the_same_step_may_be_written_again(tmp_path: Path) -> None:
    write(tmp_path, value=1.0)
    for left in (".step-00000007.tmp", ".step-00000007.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "rest of a run that was killed").touch()
    path = write(tmp_path, value=2.0)
    assert store.read(path).parameters.arrays["w"][0] == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, value=1.0)

    def fail(*arguments: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(store, "_digest", fail)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, value=2.0)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    assert store.read(path).parameters.arrays["w"][0] == 1


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def edit_state(path: Path, **changes: Any) -> None:
    state = json.loads((path / store.STATE).read_text())
    (path / store.STATE).write_text(json.dumps({**state, **changes}))


def edit_soundly(path: Path, **changes: Any) -> None:
    """As somebody would who knows the format."""
    state = {**json.loads((path / store.STATE).read_text()), **changes}
    del state["sha256"]
    (path / store.STATE).write_text(json.dumps({**state, "sha256": store._digest(state)}))


def replaced(path: Path) -> Path:
    path.unlink()
    return path


@pytest.mark.parametrize(("damage", "text"), [
    (lambda path: (path / store.OPTIMIZER).unlink(), r"optimizer\.safetensors: missing"),
    (lambda path: (path / store.STATE).unlink(), r"state\.json: missing"),
    (lambda path: edit(path / store.PARAMETERS, lambda data: data[:-1]), r"parameters\.safetensors: its size or SHA"),
    (lambda path: edit(path / store.OPTIMIZER, lambda data: data[:-1] + b"!"), r"optimizer\.safetensors: its size or"),
    (lambda path: edit_state(path, step=8), r"state\.json: its SHA-256 does not agree"),
    (lambda path: edit(path / store.STATE, lambda data: data[:-9]), r"state\.json: not JSON"),
    (lambda path: (path / store.STATE).write_text("[]"), r"state\.json: it must be an object"),
    (lambda path: (path / store.STATE).write_text("[" * 10**6), r"state\.json: lists and objects nested more than"),
    (lambda path: (path / store.STATE).write_bytes(b"\xff"), r"state\.json: not JSON"),
    (lambda path: edit_state(path, step="8"), r"state\.json: 'step' must be a whole number"),
    (lambda path: edit_state(path, files={}), r"state\.json: 'files\.parameters\.safetensors' must be an object"),
    (lambda path: edit_soundly(path, losses=[[]]), "it must be a number"),
    (lambda path: edit_soundly(path, step=-7), r"state\.json: it is that of step -7"),
    (lambda path: edit_soundly(path, best={"name": "a", "value": "x", "step": 1}), "it must be a number"),
    (lambda path: replaced(path / store.PARAMETERS).mkdir(), r"parameters\.safetensors: a folder"),
    (lambda path: os.mkfifo(replaced(path / store.OPTIMIZER)), r"optimizer\.safetensors: a pipe"),
    (lambda path: os.mkfifo(replaced(path / store.STATE)), r"state\.json: a pipe"),
    (lambda path: replaced(path / store.STATE).symlink_to("nowhere"), r"state\.json: missing \(a link that leads"),
    (lambda path: os.truncate(path / store.OPTIMIZER, 1 << 42), r"optimizer\.safetensors: its size or SHA"),
])  # fmt: skip
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], Any], text: str) -> None:
    path = write(tmp_path)
    damage(path)
    with pytest.raises(Damaged, match=text):
        store.read(path)


def test_the_order_of_what_is_said_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path)
    edit(path / store.STATE, lambda data: json.dumps(dict(reversed(json.loads(data).items()))).encode())
    assert store.read(path).standing == STANDING


def test_the_newest_sound_one_is_found(tmp_path: Path) -> None:
    assert store.newest_sound(tmp_path / "nothing") == (None, [])
    for step in (9, 10, 100):
        write(tmp_path, step)
    for foreign in ("step-new", "other", ".step-00000200.tmp", "step-²", "step-٣", "step-7", "step-0000000000300"):
        (tmp_path / foreign).mkdir()
    assert store.steps(tmp_path) == [9, 10, 100]
    for step in (10, 100):
        (store.at(tmp_path, step) / store.STATE).unlink()
    found, damage = store.newest_sound(tmp_path)
    assert found is not None
    assert found.standing.step == 9
    assert [text.endswith("state.json: missing") for text in damage] == [True, True]
    assert ["step-00000100" in text for text in damage] == [True, False]


@pytest.mark.parametrize(("keep", "spared", "left"), [
    (1, set(), [4]), (2, set(), [3, 4]), (9, set(), [1, 2, 3, 4]), (1, {2}, [2, 4]), (2, {4}, [2, 3, 4]),
])  # fmt: skip
def test_the_newest_are_kept_and_the_spared_besides(
    tmp_path: Path, keep: int, spared: set[int], left: list[int]
) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
    store.prune(tmp_path, keep, spared)
    assert store.steps(tmp_path) == left


def test_what_is_in_the_way_is_told_and_what_cannot_go_stays(tmp_path: Path) -> None:
    (tmp_path / "step-00000001").touch()  # not Unisono's
    write(tmp_path, 2)
    store.prune(tmp_path, 1, set())
    assert store.steps(tmp_path) == [1, 2]
    (tmp_path / ".step-00000003.tmp").touch()
    with pytest.raises(FileExistsError):
        write(tmp_path, 3)
    assert store.steps(tmp_path) == [1, 2]
