"""A PyTorch job's learning-rate schedules, those that wait for evaluations to get no better among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from unisono.errors import UsageError
from unisono.frameworks.pytorch.whole import WholeOptimizer
from unisono.job import Job


class Schedules:
    """The schedules of one process.

    Args:
        job: whose.
        masters: its optimizers.
        whole: those of them that are stepped as they are.
        steps: the run's length.
        forget: called when a schedule may have changed parameters, as it should.

    Attributes:
        steps_done: how many steps they have been stepped through.

    Raises:
        UsageError: one would never be told anything, or something that should fall where it waits for growth.
    """

    def __init__(
        self, job: Job, masters: Sequence[Any], whole: Mapping[int, WholeOptimizer], steps: int,
        forget: Callable[[], None],
    ) -> None:  # fmt: skip
        self._job, self._masters, self._whole, self._forget = job, masters, whole, forget
        self.steps_done = 0
        self._plateaus: list[ReduceLROnPlateau] = []
        self._others: list[Any] = []
        if job.schedule is None:
            return
        self._mark_as_stepped()
        with self._stepping():
            made = [job.schedule(master, steps) for master in masters]
        for schedule in made:
            (self._plateaus if isinstance(schedule, ReduceLROnPlateau) else self._others).append(schedule)
        for plateau in self._plateaus:
            self._check_followed(plateau)
        self._mark_as_stepped()

    def _mark_as_stepped(self) -> None:
        for master in self._masters:
            master._opt_called = True  # the clones step, not the master

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        """What changes in an optimizer's settings here is its schedule's."""
        before = {index: whole.settings() for index, whole in self._whole.items()}
        yield
        for index, whole in self._whole.items():
            whole.scheduled(before[index])
        if self._job.schedule is not None:
            self._forget()

    def _follows_best(self, schedule: ReduceLROnPlateau) -> bool:
        """Whether it follows the value that `job.best` names, which is better in the same direction; else the loss."""
        return self._job.best is not None and self._job.best[0] == schedule.mode

    def _check_followed(self, schedule: ReduceLROnPlateau) -> None:
        if self._job.evaluation is None:
            raise UsageError(
                "ReduceLROnPlateau follows evaluations; job.evaluation is None. Give it evaluation=, or take another "
                "schedule."
            )
        if schedule.mode == "max" and not self._follows_best(schedule):
            raise UsageError(
                "ReduceLROnPlateau(mode='max') follows the value that job.best names, which must grow; received "
                f"best={self._job.best!r}. Write best=('max', 'accuracy'), or mode='min' to follow the evaluation loss."
            )

    def advance(self) -> None:
        """See `Adapter.advance_schedule`."""
        self.steps_done += 1
        with self._stepping():
            for schedule in self._others:
                schedule.step()

    def advance_plateau(self, loss: float, watched: float) -> None:
        """See `Adapter.advance_plateau`."""
        with self._stepping():
            for schedule in self._plateaus:
                schedule.step(watched if self._follows_best(schedule) else loss)

    def learning_rate(self) -> float:
        """See `Adapter.learning_rate`."""
        if 0 in self._whole:
            return self._whole[0].learning_rate(self.steps_done)
        return float(self._masters[0].param_groups[0]["lr"])
