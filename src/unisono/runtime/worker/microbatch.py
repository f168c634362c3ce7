"""What computing any microbatch of a slot needs: its samples, the model's buffers, a row of the table, a clock."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unisono.errors import JobError
from unisono.errors.failure import failure
from unisono.frameworks.protocol import Array, GradientInParts, Measured
from unisono.runtime.loader.samples import LoaderFailed
from unisono.runtime.rules.plan import Plan
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.control import HANDED
from unisono.runtime.state.layout import LOSS, METRICS, SAMPLES, SECONDS, WEIGHT
from unisono.runtime.worker.context import Tools, WorkerFailed


class Microbatches:
    """The microbatches that a slot computes in one process.

    Args:
        tools: what the work needs.
        slot: whose.
    """

    def __init__(self, tools: Tools, slot: int) -> None:
        self._tools, self._slot = tools, slot
        self._table, self._computing = tools.state.segment["table"], tools.state.segment["computing"]
        self.data_seconds = 0.0
        self.events: list[tuple[str, int, float, float]] = []
        """What was done when in this round: (name, microbatch, start, end), where a timeline is wanted."""

    def at(self, plan: Plan, microbatch: int) -> None:
        """Say what this slot is at (−1: nothing): who dies here is known to have died of it."""
        self._computing[self._slot, 0] = plan.round << 32 | microbatch + 1

    def awaits(self, words: str, slot: int, value: int) -> None:
        """Say what this slot waits for, so that a waiting worker is told from a hanging one."""
        self._computing[self._slot, 1:4] = (HANDED.index(words), slot, value)

    def take(self, round_: Round, microbatch: int) -> Any:
        """The samples of a microbatch; counts the time until they are there."""
        started = time.perf_counter()
        batch = self._tools.take(round_, microbatch)
        self.data_seconds += time.perf_counter() - started
        return batch

    def load_buffers(self, round_: Round) -> list[Array]:
        """Give the model the buffers that the round begins with."""
        base = self._tools.state.buffers(round_.step)
        for live, value in zip(self._tools.adapter.live_buffers(), base, strict=True):
            live[...] = value
        return base

    def enter(self, microbatch: int, measured: Measured, samples: int, seconds: float) -> None:
        """Fill a microbatch's row of the table."""
        row = self._table[microbatch]
        row[LOSS], row[WEIGHT], row[SAMPLES], row[SECONDS] = measured.loss, measured.weight, samples, seconds
        for index, (total, count) in enumerate(measured.metrics):
            self._check_count(index, count, microbatch)
            row[METRICS + 2 * index], row[METRICS + 2 * index + 1] = total, count

    def _check_count(self, index: int, count: float, microbatch: int) -> None:
        if not 0 <= count < math.inf:
            name = list(self._tools.job.metric_functions)[index]
            error = JobError(f"a metric's count must be finite and at least 0; of metrics[{name!r}] it is {count}.")
            raise WorkerFailed(failure(error, f"worker {self._slot}, microbatch {microbatch}"))

    @contextmanager
    def placed(self, where: str) -> Iterator[None]:
        """What fails in this block is described with its place.

        Raises:
            WorkerFailed: it failed.
            GradientInParts: it goes another way.
        """
        try:
            yield
        except GradientInParts:
            raise
        except LoaderFailed as error:
            raise WorkerFailed(error.description) from error
        except Exception as error:
            raise WorkerFailed(failure(error, f"worker {self._slot}, {where}")) from error

    @contextmanager
    def timed(self, name: str, microbatch: int = -1) -> Iterator[None]:
        """Note for the timeline how long this block takes."""
        started = time.perf_counter()
        yield
        if self._tools.timeline:
            self.events.append((name, microbatch, started, time.perf_counter()))
