"""Loaders are treated like workers: three deaths or hangs of their own at one sample end the run, and name it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

import jobs
from faults import Fault, Script, hash_of, run, undisturbed
from unisono.memory.words import Words


def leave() -> None:
    os._exit(0)


def hang() -> None:
    threading.Event().wait()


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_later() -> None:
    """When it has read what is needed soon, and waits for workers."""
    Words.wait = lambda *_: stop() is None  # type: ignore[method-assign]


def hang_later() -> None:
    """When it has read what is needed soon, and waits for workers."""
    Words.wait = lambda *_: hang() is None  # type: ignore[method-assign]


@dataclass
class Trap(Dataset[Any]):
    """Samples of which one does something to the process that reads it ahead, so many times.

    Args:
        at: which.
        does: what.
        folder: counts the times.
        times: how often.
    """

    at: int
    does: Callable[[], None]
    folder: Path
    times: int = 3

    def __post_init__(self) -> None:
        self._samples = jobs.dataset()

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        if index == self.at and Path("/proc/self/comm").read_text() == "unisono-loader\n":
            number = len(list(self.folder.glob("sprung-*")))
            if number < self.times:
                (self.folder / f"sprung-{number}").touch()
                self.does()
        return self._samples[index]


def trapped(folder: Path, does: Callable[[], None], times: int = 3, at: int = 97) -> Any:
    """A job with a trap, in its fourth step unless told otherwise."""
    return jobs.make(data=Trap(at, does, folder, times), steps=6, order="sequential")


@pytest.mark.parametrize(
    ("does", "how"),
    [(leave, "ended itself with status 0"), (hang, "made no progress and was ended")],
    ids=["exits", "hangs"],
)
def test_three_in_a_row_end_the_run_and_name_the_sample(tmp_path: Path, does: Callable[[], None], how: str) -> None:
    outcome, _, messages = run(trapped(tmp_path, does), 2, stall_seconds=1.0)
    assert outcome.failure is not None
    assert how in outcome.failure.message
    assert "3 times in a row at the same place (step 4, microbatch 0, sample 97)" in outcome.failure.message
    assert outcome.steps_done == 3
    assert outcome.consistent
    if does is hang:
        assert "in hang" in outcome.failure.traceback, "its stack, without Unisono's frames"
        assert "unisono/runtime" not in outcome.failure.traceback
        assert any("test_loaders.py" in text for text in messages), "its stack is kept in logs/ too"


@pytest.mark.parametrize("does", [leave, hang])
def test_fewer_than_three_change_no_bit(tmp_path: Path, does: Callable[[], None]) -> None:
    job = trapped(tmp_path, does, times=2)
    outcome, _, _ = run(job, 2, stall_seconds=1.0)
    assert len(list(tmp_path.glob("sprung-*"))) == 2
    assert outcome.failure is None, outcome.failure
    assert hash_of(outcome) == undisturbed(job)[0]


@pytest.mark.parametrize("does", [stop_later, hang_later])
def test_one_that_hangs_while_it_reads_nothing_is_replaced_once_it_is_waited_for(
    tmp_path: Path, does: Callable[[], None]
) -> None:
    job = trapped(tmp_path, does, times=1, at=1)
    outcome, _, messages = run(job, 2, stall_seconds=1.0)
    assert any(text.startswith("loader 0 makes no progress") for text in messages)
    assert not [text for text in messages if text.startswith("worker")], "those that waited are not to blame"
    assert hash_of(outcome) == undisturbed(job)[0]


def test_who_waits_for_a_loader_does_not_hang_whatever_else_it_has_to_do(tmp_path: Path) -> None:
    job = trapped(tmp_path, stop, times=2, at=1)
    script = Script(tmp_path, (Fault("microbatch", 0, 1),))  # so the other one has this slot to do besides
    outcome, _, messages = run(job, 2, stall_seconds=1.0, phase=script)
    assert len(list(tmp_path.glob("sprung-*"))) == 2
    assert [text for text in messages if text.startswith("worker")] == [
        "worker 1 was ended by SIGKILL; its work goes on elsewhere."
    ]
    assert hash_of(outcome) == undisturbed(job)[0]


@dataclass
class Opened:
    """Data that hold a file open, so that each process opens them for itself; loaders end when they do."""

    def __call__(self) -> Any:
        if Path("/proc/self/comm").read_text() == "unisono-loader\n":
            leave()
        data: Any = jobs.dataset()
        data.file = Path(__file__).open("rb")  # noqa: SIM115
        return data


def test_one_that_cannot_even_begin_ends_the_run_and_blames_no_sample() -> None:
    outcome, _, _ = run(jobs.make(data=Opened(), steps=6), 2)
    assert outcome.failure is not None
    assert "ended itself with status 0, 3 times in a row at the same place (before it could work)" in (
        outcome.failure.message
    )
