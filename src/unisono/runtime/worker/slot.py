"""The work of one slot in a round, piece by piece; every piece can be done again by a successor.

What a piece writes is either the slot's own (partial sums, scratch, norms, its records) or double-buffered by the
number of updates (buffers, optimizer scalars) or of the wave (evaluation sums), so that doing it twice gives the same
bits as doing it once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

from unisono.frameworks.protocol import Array, GradientInParts
from unisono.gradients.arithmetic import in_order
from unisono.gradients.tree import fold
from unisono.memory.segment import touch
from unisono.memory.words import Words
from unisono.runtime.rules.balance import smoothed
from unisono.runtime.rules.folding import Folding, folding
from unisono.runtime.rules.plan import Action, Plan, position
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.backward_progress import BackwardProgress
from unisono.runtime.state.control import Control
from unisono.runtime.state.layout import RECORDS, SECONDS, WEIGHT
from unisono.runtime.worker.buffer_average import average_buffers
from unisono.runtime.worker.context import Context
from unisono.runtime.worker.evaluation import EvaluationSums
from unisono.runtime.worker.microbatch import Microbatches
from unisono.runtime.worker.partial_sums import PartialSums
from unisono.runtime.worker.pipeline_slot import Awaited, stage_work
from unisono.runtime.worker.round_record import SlotRecords, step_record
from unisono.runtime.worker.update import Update


class SlotWork:
    """One slot of a world of `slots`, in this process."""

    def __init__(self, context: Context, slots: int, slot: int) -> None:
        self._context, self.slot = context, slot
        self._job, self._program, self._adapter = context.job, context.program, context.adapter
        self._state, self._segment, self._layout = context.state, context.state.segment, context.state.layout
        self._progress = BackwardProgress(context.state)
        self._table, self._used = self._segment["table"], self._segment["used"]
        self.due = self._layout.due(slots, slot)
        chunks, phase = self._layout.slices(slots)[slot], context.request.phase
        self._update = Update(context.state, context.adapter, slot, chunks, context.job.clip_norm, phase)
        self._microbatches = Microbatches(context, slot)
        self._records = SlotRecords(context, slot, self._microbatches)
        self._evaluation = EvaluationSums(context, self._microbatches.outputs_again)
        self._staged = stage_work(context, slot, slots, self._microbatches)
        self._sums = self._staged.sums if self._staged else self._sums_of_all()
        self._adds = bool(context.adapter.can_add)
        self._passes: Iterator[Awaited] | None = None
        self._folded: tuple[Any, Folding] | None = None
        self._digests: list[str] = []

    def _sums_of_all(self) -> PartialSums | None:
        """Every parameter and buffer is the slot's own where the model is not cut."""
        if self._context.cuts:
            return None
        buffers = range(len(self._layout.description.buffers))
        return PartialSums(self._state, self._adapter, self.slot, self._layout.trained, buffers)

    def touch(self, plan: Plan) -> None:
        """Map the memory that this slot works on into this process."""
        folded = fold(plan.run(self.slot).start, plan.run(self.slot).stop, self._layout.shape.microbatches)
        for region in self._layout.regions:
            touch(self._state.vector(region))
        if self._sums:
            self._sums.touch(folded.written(self._adds))
        self._update.touch()

    def begin(self, round: int) -> None:
        """The slot's owner turns to a round."""
        self._records.begin(round)

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for others."""
        self._records.wait_seconds += seconds

    def compute(self, plan: Plan, round_: Round) -> Awaited | None:
        """Compute the slot's microbatches and leave partial sums (of a wave: rows and outputs).

        Returns:
            None when all is done; else what a neighbouring stage has to hand over before another call goes on.
        """
        if self._passes is None:
            self._records.reset()
            self._state.control.wait(Control.DRAINED, plan.round - RECORDS + 1)  # a slow supervisor loses no record
            self._used[self.slot] = 0
            if self.slot == 0:
                self._used[plan.slots : -1] = 0  # of slots that a larger plan had
            if plan.hosts:
                self._progress.begin(self.slot, plan.round)
            self._adapter.refresh(round_.step)
            self._passes = self._computing(plan, round_)
        started, reading = time.perf_counter(), self._microbatches.data_seconds
        try:
            awaited = next(self._passes, None)
        except GradientInParts:  # what it was added to is lost: once more, from the first microbatch on
            self._adds, self._passes = False, None
            return self.compute(plan, round_)
        self._records.compute_seconds += time.perf_counter() - started - (self._microbatches.data_seconds - reading)
        if awaited is None:
            self._passes = None
            if plan.hosts:
                self._progress.whole(self.slot)
            self._microbatches.at(plan, -1)
        return awaited

    def _computing(self, plan: Plan, round_: Round) -> Iterator[Awaited]:
        if round_.evaluation is not None:  # shared out among all slots, each with the whole model
            run = plan.run(self.slot)
            for microbatch in range(run.start, min(run.stop, self._program.nonempty(round_))):
                self._microbatches.evaluate(plan, round_, microbatch)
            return
        if self._context.request.trace and self.slot == 0:
            begun = any(position(word, plan.round) for word in self._segment["progress"][:, 0].tolist())
            parameters = [] if begun else self._state.parameters()  # a successor may come too late to see them
            self._digests = [blake2b(values.tobytes(), digest_size=8).hexdigest() for values in parameters]
        steps = self._folding(plan, round_).steps
        if self._staged:
            yield from self._staged.passes(plan, round_, steps, self._adds)
        elif self._sums:
            for step in steps:
                if plan.hosts and step is steps[-1]:
                    self._adapter.on_gradient = self._progress.listener(self.slot)
                self._microbatches.gradient(plan, round_, step, self._sums, self._adds and bool(step.additions))
            self._adapter.on_gradient = None

    def _folding(self, plan: Plan, round_: Round) -> Folding:
        total = self._program.nonempty(round_)
        signature = (plan.boundaries, plan.hosts, total)
        if self._folded is None or self._folded[0] != signature:
            self._folded = signature, folding(plan, self.slot // plan.stages, total)
        return self._folded[1]

    def _totals(self, round_: Round) -> Array:
        """The sum of the microbatches' rows in their order."""
        return in_order(self._rows(round_))

    def _rows(self, round_: Round) -> Array:
        rows: Array = self._table[: self._program.nonempty(round_)]
        return rows

    def publish_norms(self, plan: Plan, round_: Round) -> None:
        """Publish the norms of the slice's blocks."""
        with self._updating("norms"):
            self._update.publish_norms(self._folding(plan, round_).gradients, float(self._totals(round_)[WEIGHT]))

    def update(self, plan: Plan, round_: Round, action: Action, progress: Words) -> None:
        """Update the action's chunks of the slice."""
        with self._updating("update"):
            tree, weight = self._folding(plan, round_).gradients, float(self._totals(round_)[WEIGHT])
            self._update.apply(round_, tree, weight, action, progress)

    @contextmanager
    def _updating(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        with self._microbatches.timed(name):
            yield
        self._records.update_seconds += time.perf_counter() - started

    def finish(self, plan: Plan, round_: Round) -> None:
        """What is left before the commit: buffers and the evaluation's sums (slot 0), the slot's record."""
        record: dict[str, Any] = {}
        if self.slot == 0:
            record = (
                self._step_done(plan, round_)
                if round_.evaluation is None
                else self._evaluation.add(round_, self._rows(round_))
            )
            record["slots"] = plan.slots
        self._records.leave(plan.round, record)

    def _step_done(self, plan: Plan, round_: Round) -> dict[str, Any]:
        totals, total = self._totals(round_), self._program.nonempty(round_)
        average_buffers(self._state, self._folding(plan, round_).buffers, totals, round_.step)
        pace = self._segment["pace"][: plan.pipes]
        pace[:] = smoothed(pace.tolist(), plan.boundaries, self._table[:total, SECONDS].tolist())
        record = step_record(self._context, round_, totals)
        if self._job.waits_for_norms:
            record["gradient_norm"] = self._update.norm()
        if self._context.request.trace:
            record["digests"] = self._digests
        return record
