"""A microbatch of a slot from its samples to its row of the table, in one process."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unisono.errors import JobError
from unisono.errors.failure import WorkerFailed, failure
from unisono.frameworks.protocol import Array, GradientInParts, Measured
from unisono.gradients.tree import FoldStep
from unisono.memory.packing import pack
from unisono.partition.keys import key
from unisono.runtime.rules.plan import Plan
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.control import HANDED
from unisono.runtime.state.layout import LOSS, METRICS, SAMPLES, SECONDS, WEIGHT
from unisono.runtime.worker.context import Context
from unisono.runtime.worker.partial_sums import PartialSums


class Microbatches:
    """The microbatches that a slot computes in one process.

    Args:
        context: what the work needs.
        slot: whose.
    """

    def __init__(self, context: Context, slot: int) -> None:
        self._context, self._slot, self._adapter = context, slot, context.adapter
        segment = context.state.segment
        self.table, self._computing, self._used = segment["table"], segment["computing"], segment["used"][slot]
        self.data_seconds = 0.0
        self.events: list[tuple[str, int, float, float]] = []
        """What was done when in this round: (name, microbatch, start, end), where a timeline is wanted."""

    def gradient(self, plan: Plan, round_: Round, step: FoldStep, sums: PartialSums, add: bool) -> None:
        """Compute a microbatch of the whole model and do its additions.

        Args:
            plan, round_: the round.
            step: the microbatch and its additions.
            sums: where they go.
            add: whether the gradient is added at once to what it is added to first.

        Raises:
            WorkerFailed: it failed.
            GradientInParts: it cannot be added at once.
        """
        microbatch, samples = step.microbatch, self._samples(round_, step.microbatch)
        self.turn_to(plan, microbatch)
        with self.placed(f"step {round_.step + 1}, microbatch {microbatch}"):
            batch = self.take(round_, microbatch)
            started = time.perf_counter()
            with self.timed("gradient", microbatch):
                base = self.make_ready(round_, microbatch)
                measured = self._adapter.gradient(batch, samples, sums.destination(step, add), self._used, add)
        if base:
            sums.keep_buffers(self._adapter.live_buffers(), base, samples, microbatch, step.buffer)
        self.enter(microbatch, measured, samples, time.perf_counter() - started)
        sums.fold(step, add)

    def evaluate(self, plan: Plan, round_: Round, microbatch: int) -> None:
        """Compute a microbatch of a wave of an evaluation.

        Raises:
            WorkerFailed: it failed.
        """
        self.turn_to(plan, microbatch)
        keep, samples = self._context.state.layout.shape.object_metrics, self._samples(round_, microbatch)
        with self.placed(f"evaluation after step {round_.step}, microbatch {microbatch}"):
            batch = self.take(round_, microbatch)
            with self.timed("evaluate", microbatch):
                self.make_ready(round_, microbatch)
                measured = self._adapter.evaluate(batch, samples, keep)
            if keep:
                self.keep(round_, microbatch, measured)
        self.enter(microbatch, measured, samples, 0.0)

    def keep(self, round_: Round, microbatch: int, measured: Measured) -> None:
        """Leave a microbatch's outputs for metric objects."""
        state = self._context.state
        pack(measured.outputs, state.segment[state.layout.outputs(round_.number, microbatch)], self._context.reducers)

    def outputs_again(self, round_: Round, microbatch: int) -> Any:
        """What an earlier wave's microbatch gave, for a successor that did not see it."""
        batch = self._context.read(round_, microbatch)
        self.make_ready(round_, microbatch)
        return self._adapter.evaluate(batch, self._samples(round_, microbatch), True).outputs

    def at(self, plan: Plan, microbatch: int) -> None:
        """Say what this slot is at (−1: nothing): who dies here is known to have died of it."""
        self._computing[self._slot, 0] = plan.round << 32 | microbatch + 1

    def awaits(self, words: str, slot: int, value: int) -> None:
        """Say what this slot waits for, so that a waiting worker is told from a hanging one."""
        self._computing[self._slot, 1:4] = (HANDED.index(words), slot, value)

    def take(self, round_: Round, microbatch: int) -> Any:
        """The samples of a microbatch; counts the time until they are there."""
        started = time.perf_counter()
        batch = self._context.take(round_, microbatch)
        self.data_seconds += time.perf_counter() - started
        return batch

    def make_ready(self, round_: Round, microbatch: int) -> list[Array]:
        """Give the model what a microbatch begins with: the round's buffers, returned, and its random numbers."""
        base = self.load_buffers(round_)
        what = ("compute", round_.step) if round_.evaluation is None else ("evaluate", round_.wave)
        self._adapter.seed(key(self._context.job.seed, *what, microbatch))
        return base

    def load_buffers(self, round_: Round) -> list[Array]:
        """Give the model the buffers that the round begins with; a forward pass may change them in evaluation too."""
        base = self._context.state.buffers(round_.step)
        self._adapter.load_buffers(base)
        return base

    def enter(self, microbatch: int, measured: Measured, samples: int, seconds: float) -> None:
        """Fill a microbatch's row of the table."""
        row = self.table[microbatch]
        row[LOSS], row[WEIGHT], row[SAMPLES], row[SECONDS] = measured.loss, measured.weight, samples, seconds
        for index, (total, count) in enumerate(measured.metrics):
            self._check_count(index, count, microbatch)
            row[METRICS + 2 * index], row[METRICS + 2 * index + 1] = total, count

    def _check_count(self, index: int, count: float, microbatch: int) -> None:
        if not 0 <= count < math.inf:
            name = list(self._context.job.metric_functions)[index]
            error = JobError(f"a metric's count must be finite and at least 0; of metrics[{name!r}] it is {count}.")
            raise WorkerFailed(failure(error, f"worker {self._slot}, microbatch {microbatch}"))

    @contextmanager
    def placed(self, where: str) -> Iterator[None]:
        """What fails in this block is described with its place.

        Raises:
            WorkerFailed: it failed.
            DeviceFailed: this process's device did.
            GradientInParts: it goes another way.
        """
        try:
            yield
        except (GradientInParts, WorkerFailed):
            raise
        except Exception as error:
            if failed := self._adapter.device_failed(error):
                raise failed from error
            raise WorkerFailed(failure(error, f"worker {self._slot}, {where}")) from error

    @contextmanager
    def timed(self, name: str, microbatch: int = -1) -> Iterator[None]:
        """Note for the timeline how long this block takes."""
        started = time.perf_counter()
        yield
        if self._context.request.timeline:
            self.events.append((name, microbatch, started, time.perf_counter()))

    def turn_to(self, plan: Plan, microbatch: int) -> None:
        """Say what this slot is at, before it is."""
        self.at(plan, microbatch)
        self._context.request.phase("microbatch", plan.round, self._slot, microbatch)

    def _samples(self, round_: Round, microbatch: int) -> int:
        return self._context.program.samples(round_, microbatch)
