"""When checkpoints are written, and what a slow disk costs: a checkpoint, never a step."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.checkpoint import store
from unisono.checkpoint.keeper import Checkpointing, Keeper
from unisono.checkpoint.parameters import Tensors
from unisono.checkpoint.store import Standing
from unisono.errors import UsageError


def tensors(value: float) -> Tensors:
    return Tensors({"w": np.full(4, value, "float32")}, {"w": "float32"})


def test_a_slow_disk_skips_a_checkpoint_and_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, write = threading.Event(), store.write
    messages: list[str] = []

    def slow(*arguments: Any) -> Path:
        assert allowed.wait(10)
        return write(*arguments)

    monkeypatch.setattr(store, "write", slow)
    keeper = Keeper(tmp_path, Checkpointing(steps=1), None, None, messages.append, lambda best: None)
    for step in (1, 2):
        keeper.copy(Standing(step, False, 1), tensors(step), tensors(0))
    assert messages == ["the disk is slow: no checkpoint of step 2, the last one is being written"]
    allowed.set()
    assert keeper.last(Standing(3, False, 1), tensors(3), tensors(0))
    assert store.steps(tmp_path) == [1, 3]
    assert store.read(store.at(tmp_path, 1)).parameters.arrays["w"][0] == 1, "the copy, not what came later"


def test_the_best_is_written_however_slow_the_disk_and_never_removed(tmp_path: Path) -> None:
    kept: list[Any] = []
    keeper = Keeper(tmp_path, Checkpointing(keep=1), ("max", "f1"), None, print, kept.append)
    for step, value in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.6)):
        keeper.evaluated({"step": step, "evaluation/f1": value})
        keeper.copy(Standing(step, True, 1), tensors(step), tensors(0))
    assert keeper.last(Standing(5, True, 1), tensors(5), tensors(0))
    assert [best["step"] for best in kept] == [1, 2]
    assert store.steps(tmp_path) == [2, 5]


@pytest.mark.parametrize(("every", "keep", "text"), [("ten", 2, "90s, 10m"), (0, 2, "at least 1"), (5, 0, "keep")])
def test_settings_say_what_is_wrong(every: Any, keep: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Checkpointing.parse(every, keep)
