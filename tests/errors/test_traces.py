"""Whose an error is: the job's, with the job's frames alone; or Unisono's, which says so, with all frames."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unisono.errors import JobError
from unisono.errors.failure import PlacedError, failure
from unisono.errors.traces import MOST_CHARACTERS, is_of_the_job, user_traceback
from unisono.memory.packing import pack
from unisono.observe.progress import headline
from unisono.partition.order import epoch_order


def raised(function: Callable[[], Any]) -> Exception:
    """What it raises, as if Unisono had made the call that is in it."""
    with pytest.raises(Exception, match=r".") as caught:
        function()
    error = caught.value
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_next is not None
    error.__traceback__ = error.__traceback__.tb_next.tb_next  # without this file's own frames
    return error


class Broken(nn.Module):
    def forward(self, inputs: torch.Tensor) -> Any:
        return json.loads("{") or inputs


@pytest.mark.parametrize("model", [Broken(), nn.Linear(3, 2)], ids=["its own code", "a framework's layer"])
def test_an_error_of_the_jobs_has_the_jobs_frames(model: nn.Module) -> None:
    found = failure(raised(lambda: model(torch.zeros(1, 5))), "worker 1, step 3")
    assert found.message.endswith("in the job's code (worker 1, step 3)")
    assert found.traceback.startswith("Traceback")
    assert "/src/unisono/" not in found.traceback


@pytest.mark.parametrize(
    ("function", "file"),
    [
        (lambda: headline({}), "observe/progress.py"),
        (lambda: pack(lambda: 1, np.empty(64, np.uint8), {}), "memory/packing.py"),
        (lambda: json.loads("{"), "json/decoder.py"),
    ],
    ids=["by itself", "in a call", "in the standard library"],
)
def test_an_error_of_unisonos_says_so_with_all_frames(function: Callable[[], Any], file: str) -> None:
    found = failure(raised(function), "worker 1, step 3")
    assert "an error in Unisono, not in your job: please report it, with these lines (worker 1" in found.message
    assert file in found.traceback


def test_what_a_jobs_functions_return_is_the_jobs_with_all_frames() -> None:
    found = failure(raised(lambda: epoch_order(lambda: [0], 4, 0, 0)), "worker 1, step 3")
    assert found.message.startswith("TypeError in the job's code")
    assert "order(epoch, generator)" in found.traceback, "the call, as the job has no frame of its own"


def test_what_reading_a_sample_raises_is_the_jobs_whatever_its_frames() -> None:
    placed = PlacedError(IndexError(3), "sample 3")
    assert failure(placed, "step 1").message == "IndexError in the job's code (sample 3, step 1)"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_full_table_of_files_is_named(number: int) -> None:
    found = failure(OSError(number, "Too many open files"), "while the job was set up")
    assert found.message.startswith("too many open files: a process may have ")
    assert "ulimit -n" in found.message


def test_a_long_chain_of_causes_is_cut_and_has_no_frames_of_unisonos() -> None:
    error: Exception = JobError("first")
    for number in range(3000):
        following = ValueError(f"{number} \ud800")
        following.__cause__ = error
        error = following
    text = user_traceback(error)
    assert len(text) < 2 * MOST_CHARACTERS
    assert text.endswith("2999 \\ud800")
    assert text.encode()
    assert not is_of_the_job(error)
