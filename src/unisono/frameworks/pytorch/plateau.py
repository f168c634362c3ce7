"""What schedules follow that wait for evaluations to get no better (`ReduceLROnPlateau`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from unisono.errors import UsageError
from unisono.job import Job


def follows_best(schedule: ReduceLROnPlateau, job: Job) -> bool:
    """Whether it follows the value that `job.best` names, which is better in the same direction; else the loss."""
    return job.best is not None and job.best[0] == schedule.mode


def check_followed(schedules: Iterable[Any], job: Job) -> None:
    """Refuse what would never be told anything, or something that should fall where it waits for growth.

    Raises:
        UsageError: nothing is evaluated, or mode="max" and no value that should grow.
    """
    for schedule in schedules:
        if not isinstance(schedule, ReduceLROnPlateau):
            continue
        if job.evaluation is None:
            raise UsageError(
                "ReduceLROnPlateau follows evaluations; job.evaluation is None. Give it evaluation=, or take another "
                "schedule."
            )
        if schedule.mode == "max" and not follows_best(schedule, job):
            raise UsageError(
                "ReduceLROnPlateau(mode='max') follows the value that job.best names, which must grow; received "
                f"best={job.best!r}. Write best=('max', 'accuracy'), or mode='min' to follow the evaluation loss."
            )
