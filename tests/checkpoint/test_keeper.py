"""When checkpoints are written, and what a slow disk costs: a checkpoint, never a step."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.checkpoint import store
from unisono.checkpoint.keeper import Keeper
from unisono.checkpoint.parameters import Tensors
from unisono.checkpoint.store import Standing
from unisono.errors import UsageError
from unisono.settings import Checkpointing, Settings
from unisono.values.untrusted import Malformed
from waiting import limit


def tensors(value: float) -> Tensors:
    return Tensors({"w": np.full(4, value, "float32")}, {"w": "float32"})


def test_a_slow_disk_skips_a_checkpoint_and_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, write = threading.Event(), store.write
    messages: list[str] = []

    def slow(*arguments: Any) -> Path:
        assert allowed.wait(limit())
        return write(*arguments)

    monkeypatch.setattr(store, "write", slow)
    keeper = Keeper(lambda: tmp_path, Checkpointing(steps=1), None, None, messages.append, lambda best: None)
    for step in (1, 2):
        keeper.copy(Standing(step, False, 1), tensors(step), tensors(0))
    assert messages == ["the disk is slow: no checkpoint of step 2, the last one is being written"]
    allowed.set()
    assert keeper.last(Standing(3, False, 1), tensors(3), tensors(0))
    assert store.steps(tmp_path) == [1, 3]
    assert store.read(store.at(tmp_path, 1)).parameters.arrays["w"][0] == 1, "the copy, not what came later"


def test_the_best_is_written_however_slow_the_disk_and_never_removed(tmp_path: Path) -> None:
    kept: list[Any] = []
    keeper = Keeper(lambda: tmp_path, Checkpointing(keep=1), ("max", "f1"), None, print, kept.append)
    for step, value in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.6)):
        keeper.evaluated({"step": step, "evaluation/f1": value})
        keeper.copy(Standing(step, True, 1), tensors(step), tensors(0))
        keeper.settle()
    assert keeper.last(Standing(5, True, 1), tensors(5), tensors(0))
    assert [best["step"] for best in kept] == [1, 2]
    assert store.steps(tmp_path) == [2, 5]


def test_a_best_one_waits_for_a_slow_disk_and_nobody_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, write = threading.Event(), store.write

    def slow(*arguments: Any) -> Path:
        assert allowed.wait(limit())
        return write(*arguments)

    monkeypatch.setattr(store, "write", slow)
    kept: list[Any] = []
    one = keeper(tmp_path, Checkpointing(keep=9), best=("max", "f1"), kept=kept.append)
    for step in range(1, 6):
        one.evaluated({"step": step, "evaluation/f1": step / 10})
        one.copy(Standing(step, True, 1), tensors(step), tensors(step))
    assert one.newest is None
    allowed.set()
    one.settle()
    assert [best["step"] for best in kept] == store.steps(tmp_path) == [1, 5], "of those that had to wait the best"
    for step in (1, 5):
        found = store.read(store.at(tmp_path, step))
        assert found.parameters.arrays["w"][0] == found.optimizer.arrays["w"][0] == step
    assert one.newest == 5


def test_old_checkpoints_go_when_the_new_one_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, full = store.write, True

    def refused_at_3(folder: Path, standing: Standing, *rest: Any) -> Path:
        if standing.step == 3 and full:
            raise OSError("No space left on device")
        return write(folder, standing, *rest)

    monkeypatch.setattr(store, "write", refused_at_3)
    messages: list[str] = []
    keeper = Keeper(lambda: tmp_path, Checkpointing(keep=2), None, None, messages.append, lambda best: None)
    assert [keeper.last(Standing(step, False, 1), tensors(step), tensors(0)) for step in (1, 2, 3)] == [
        True, True, False,
    ]  # fmt: skip
    assert store.steps(tmp_path) == [1, 2]
    assert "step 3 could not be written: No space left on device" in messages[0]
    full = False
    assert keeper.last(Standing(3, False, 1), tensors(3), tensors(0))
    assert store.steps(tmp_path) == [2, 3]


@pytest.mark.parametrize(
    ("settings", "written"),
    [(Checkpointing(steps=2, keep=9), [2, 4]), (Checkpointing(keep=9), []), (Checkpointing(seconds=1e9), [])],
)
def test_copies_are_made_at_steps_that_are_due(tmp_path: Path, settings: Checkpointing, written: list[int]) -> None:
    keeper = Keeper(lambda: tmp_path, settings, None, None, print, lambda best: None)
    keeper.prepare(tensors(0), tensors(0))
    for step in range(1, 6):
        keeper.copy(Standing(step, False, 1), tensors(step), tensors(0))
        keeper.settle()
        keeper.copy(Standing(step, True, 1), tensors(-step), tensors(0))  # after an evaluation there is nothing new
        keeper.settle()
    assert store.steps(tmp_path) == written
    assert [store.read(store.at(tmp_path, step)).parameters.arrays["w"][0] for step in written] == written


@pytest.mark.parametrize(
    ("best", "there"),
    [("f1", "loss"), ("f1", "f1"), ("test/f1", "train/f1"), ("f1", "train/f1"), ("test/f1", "loss")],
)
def test_an_evaluation_may_lack_the_best_value_where_another_one_may_have_it(
    tmp_path: Path, best: str, there: str
) -> None:
    keeper = Keeper(lambda: tmp_path, Checkpointing(), ("max", best), 1, print, lambda best: None)
    record = {"step": 1, "loss": 0.5, f"evaluation/{there}": 0.25}
    keeper.evaluated(record)
    assert (keeper.memory()["best"] is not None) == (best == there)
    assert keeper.memory()["since_best"] == 0, "an evaluation without the value is none that was worse"


@pytest.mark.parametrize(("every", "keep", "text"), [("ten", 2, "90s, 10m"), (0, 2, "from 1 to"), (5, 0, "keep")])
def test_settings_say_what_is_wrong(every: Any, keep: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Settings(checkpoint_every=every, keep=keep)


def keeper(folder: Path, settings: Checkpointing | None = None, **changes: Any) -> Keeper:
    """A keeper whose messages are errors."""
    usual = {"best": None, "patience": None, "message": pytest.fail, "kept": lambda best: None}
    return Keeper(lambda: folder, settings or Checkpointing(), **{**usual, **changes})


@pytest.mark.parametrize(("better", "values", "best", "since"), [
    ("max", [0.5, 0.5, 0.9, 0.7, 0.8], {"name": "f1", "value": 0.9, "step": 3}, 2),
    ("min", [0.5, 0.45, 0.4, 0.4], {"name": "f1", "value": 0.4, "step": 3}, 1),
])  # fmt: skip
def test_an_evaluation_is_better_when_it_is_better(
    tmp_path: Path, better: str, values: list[float], best: Any, since: int
) -> None:
    one, other = (keeper(tmp_path, best=(better, "f1"), patience=since) for _ in range(2))
    for step, value in enumerate(values, 1):
        assert not one.exhausted
        one.evaluated({"step": step, "evaluation/f1": value, "evaluation/other": -value})
    assert one.memory() == {"best": best, "since_best": since}
    assert one.exhausted
    other.begin(Standing(9, False, 1, since_best=7))
    assert other.exhausted
    other.remember(one.memory())
    assert other.memory() == one.memory()
    assert not keeper(tmp_path, best=(better, "f1")).exhausted
    assert keeper(tmp_path).memory() == {"best": None, "since_best": 0}


@pytest.mark.parametrize("memory", [
    {}, {"best": None}, {"best": None, "since_best": "1"}, {"best": 1, "since_best": 0},
    {"best": {"name": "f1", "value": "0.9", "step": 3}, "since_best": 0}, {"best": None, "since_best": 2**70},
])  # fmt: skip
def test_what_another_host_remembers_is_of_its_kind(tmp_path: Path, memory: Any) -> None:
    one = keeper(tmp_path, best=("max", "f1"))
    with pytest.raises(Malformed, match="what a host remembers"):
        one.remember(memory)
    assert one.memory() == {"best": None, "since_best": 0}


def written(folder: Path) -> list[int]:
    """Which checkpoints are there, once the one that is being written is."""
    for thread in threading.enumerate():
        if thread.name == "unisono-checkpoint":
            thread.join()
    return store.steps(folder)


def test_a_checkpoint_is_due_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[-1])
    one = keeper(tmp_path, Checkpointing(seconds=10.0))
    for step, now, due in ((1, 109.0, False), (2, 110.0, True), (3, 119.0, False), (4, 121.0, True)):
        clock.append(now)
        assert one.due_by_clock() is due
        one.copy(Standing(step, False, 1), tensors(step), tensors(0))
        assert (step in written(tmp_path)) is due
    clock.append(1e9)
    assert not keeper(tmp_path, Checkpointing(steps=5)).due_by_clock()


def test_the_best_is_copied_once_and_by_one_host(tmp_path: Path) -> None:
    one = keeper(tmp_path, best=("max", "f1"))
    assert not one.has_written
    one.evaluated({"step": 1, "evaluation/f1": 0.5})
    one.copy(Standing(1, True, 1), tensors(1), tensors(11))
    one.copy(Standing(2, False, 1), tensors(2), tensors(0))
    one.evaluated({"step": 3, "evaluation/f1": 0.6})
    one.pass_over()
    one.copy(Standing(3, True, 1), tensors(3), tensors(0))
    assert written(tmp_path) == [1]
    assert one.has_written
    found = store.read(store.at(tmp_path, 1))
    assert found.parameters.arrays["w"][0] == 1
    assert found.optimizer.arrays["w"][0] == 11


def test_a_copy_s_memory_is_taken_before_it_is_needed_where_it_will_be(tmp_path: Path) -> None:
    for settings, best, taken in (
        (Checkpointing(), None, False),
        (Checkpointing(steps=9), None, True),
        (Checkpointing(seconds=9), None, True),
        (Checkpointing(), ("max", "f1"), True),
    ):
        one = keeper(tmp_path, settings, best=best)
        one.prepare(tensors(1), tensors(0))
        assert [bool(held.arrays) for held in one._copies._room[0]] == [taken] * 2


def test_a_checkpoint_says_where_the_run_stood_and_whose_it_is(tmp_path: Path) -> None:
    one = keeper(tmp_path, best=("max", "f1"))
    one.about = ({"model": "m"}, {"torch": "2"})
    one.evaluated({"step": 4, "evaluation/f1": 0.5})
    one.evaluated({"step": 8, "evaluation/f1": 0.25})
    standing = Standing(8, True, 3, losses=(1.5, 2.5))
    assert one.last(standing, tensors(1), tensors(2))
    found = store.read(store.at(tmp_path, 8))
    best = {"name": "f1", "value": 0.5, "step": 4}
    assert found.standing == replace(standing, best=best, since_best=1)
    assert (found.job, found.fingerprint) == ({"model": "m"}, {"torch": "2"})
    assert found.parameters.arrays["w"][0] == 1
    assert found.optimizer.arrays["w"][0] == 2


def test_a_disk_that_takes_nothing_is_told_and_the_next_one_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    one = keeper(tmp_path, Checkpointing(steps=1), message=messages.append)

    def full(*arguments: Any) -> Path:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", full)
        assert not one.last(Standing(1, False, 1), tensors(1), tensors(0))
        assert one.failure == "the checkpoint of step 1 could not be written: no space"
        assert messages == [f"{one.failure}; training goes on, the next one is tried again"]
    assert one.last(Standing(2, False, 1), tensors(2), tensors(0))
    assert one.failure is None


def test_settings_as_people_write_them() -> None:
    assert Checkpointing.parse(None, 3) == Checkpointing(None, None, 3)
    assert Checkpointing.parse("1h") == Checkpointing(seconds=3600.0)
    assert Checkpointing.parse(7, 1) == Checkpointing(steps=7, keep=1)
    with pytest.raises(UsageError, match=r"checkpoint_every must be a whole number from 1 to .*; received -5"):
        Checkpointing.parse("-5")
