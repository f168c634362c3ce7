"""Loaders are treated like workers: three deaths or hangs of their own at one sample end the run, and name it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

import jobs
from faults import hash_of, run, undisturbed


def leave() -> None:
    os._exit(0)


def hang() -> None:
    threading.Event().wait()


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


def trapped(folder: Path, does: Callable[[], None], times: int = 3) -> Any:
    """A job whose fourth step needs the trap."""
    return jobs.make(data=Trap(97, does, folder, times), steps=6, order="sequential")


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
