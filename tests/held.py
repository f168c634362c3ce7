"""A run held to the plain loop: its records, parameters, buffers and optimizer state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import plain_loop
from faults import run
from unisono import Job
from unisono.runtime.supervisor.outcome import raise_failure


def hold(job: Job, loop: Callable[[Job, int], plain_loop.Model], tolerance: float, workers: int = 0) -> None:
    """Train a job with Unisono and with the plain loop, and compare.

    Args:
        job: the job.
        loop: the framework's piece of the plain loop.
        tolerance: how far apart two values may be, relative to the loop's; 0 = the same bits.
        workers: of Unisono; 0 = in this process.
    """
    outcome, records, _ = run(job, workers)
    raise_failure(outcome)
    model, expected = plain_loop.train(job, loop)
    assert len(records) == len(expected)
    for record, wanted in zip(records, expected, strict=True):
        for name, value in wanted.items():
            if value is not None:  # a learning rate that the loop does not see
                assert record.get(name) == pytest.approx(value, rel=tolerance, abs=0), (name, wanted["step"])
    steps = outcome.steps_done
    assert apart(outcome.state.saved(steps).arrays, model.saved(), tolerance) == []
    assert apart(outcome.state.optimizer(steps).arrays, model.state(), tolerance) == []


def apart(ours: Mapping[str, Any], theirs: Mapping[str, Any], tolerance: float) -> list[str]:
    """The loop's tensors that are not there, or too far from it."""
    return [name for name, wanted in theirs.items() if name not in ours or not _near(ours[name], wanted, tolerance)]


def _near(found: Any, wanted: Any, tolerance: float) -> bool:
    if found.dtype == np.uint8 != wanted.dtype:  # memory that tensors share: what follows from it is compared
        return True
    found = found.astype("float64")
    return bool(np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted))
