"""The work of one slot in a round, piece by piece; every piece can be done again by a successor.

What a piece writes is either the slot's own (partial sums, scratch, norms, its records) or double-buffered by the
parity of the step (buffers, optimizer scalars) or of the wave (evaluation sums), so that doing it twice gives the
same bits as doing it once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from unisono.frameworks.protocol import Array, Measured
from unisono.gradients.tree import Node, expression, fold
from unisono.job import Job
from unisono.memory.packing import Reducers, pack
from unisono.memory.segment import touch
from unisono.memory.words import Words
from unisono.partition.keys import key
from unisono.runtime.balance import balanced, smoothed
from unisono.runtime.evaluation import EvaluationSums
from unisono.runtime.failure import Failure, failure
from unisono.runtime.program import Program, Round
from unisono.runtime.protocol import Action, Plan, following
from unisono.runtime.samples import LoaderFailed
from unisono.runtime.state import (
    FLOATING,
    LOSS,
    METRICS,
    RECORD_BYTES,
    RECORDS,
    SAMPLES,
    SECONDS,
    WEIGHT,
    Control,
    HostState,
)
from unisono.runtime.update import Update, tree_sum

Phase = Callable[[str, int, int, int], None]


@dataclass
class Tools:
    """What the work of any slot needs, one per process.

    Attributes:
        job: the job.
        program: its rounds.
        state: the host's shared state.
        adapter: the framework's adapter, bound to the shared parameters.
        take: (round, microbatch) → (inputs, targets), once its loader has it.
        read: (round, microbatch) → (inputs, targets), read again by this process.
        reducers: how tensors are sent (evaluation outputs).
        trace: record a digest of every parameter before each step (`verify`).
        copy_every: steps between checkpoints, or None.
        copy_evaluations: a checkpoint may follow each evaluation.
    """

    job: Job
    program: Program
    state: HostState
    adapter: Any
    take: Callable[[Round, int], Any]
    read: Callable[[Round, int], Any]
    reducers: Reducers
    trace: bool = False
    copy_every: int | None = None
    copy_evaluations: bool = False


class WorkerFailed(Exception):
    """The job failed in this worker; carries the description."""

    def __init__(self, description: Failure) -> None:
        super().__init__(description.message)
        self.description = description


class SlotWork:
    """One slot of a world of `slots`, in this process."""

    def __init__(self, tools: Tools, slots: int, slot: int) -> None:
        self._tools, self._slots, self.slot = tools, slots, slot
        self._job, self._program, self._state, self._adapter = tools.job, tools.program, tools.state, tools.adapter
        self._layout, self._segment = tools.state.layout, tools.state.segment
        segment = self._segment
        self._control = Words(segment, "control", 0.0)
        self._table, self._used, self._computing = segment["table"], segment["used"], segment["computing"]
        self.chunks = self._layout.slices(slots)[slot]
        self._update = Update(tools.state, tools.adapter, slot, self.chunks)
        self._sums = EvaluationSums(
            tools.job, tools.program, tools.state, tools.adapter.metric_objects(), self._outputs_again
        )
        self._gradient_buffers = self._destinations()
        self._buffer_sums = segment[f"buffer_sums/{slot}"]
        self._buffer_changed = segment[f"buffer_changed/{slot}"]
        self._cut: tuple[Any, Any, Any] | None = None
        self._compute_seconds = self._data_seconds = self._wait_seconds = self._update_seconds = 0.0
        self._digests: list[str] = []
        self._round_started, self._begun = 0.0, -1  # when the round of this number began here

    def _destinations(self) -> list[Any]:
        """Per gradient buffer of the slot: parameter number → where its gradient goes."""
        buffers = []
        for index in range(self._layout.gradient_buffers):
            arrays: dict[int, Array] = {}
            for region in self._layout.regions:
                vector = self._segment[f"gradients/{self.slot}/{region.index}"][index]
                for p in region.parameters:
                    arrays[p.number] = vector[p.offset : p.end].reshape(p.shape)
            buffers.append(self._adapter.gradient_buffers(arrays))
        return buffers

    def touch(self, plan: Plan) -> None:
        """Map the memory that this slot works on into this process."""
        used = fold(plan.run(self.slot).start, plan.run(self.slot).stop, self._layout.shape.microbatches).buffers
        for region in self._layout.regions:
            touch(self._segment[f"parameters/{region.index}"])
            touch(self._segment[f"gradients/{self.slot}/{region.index}"][:used])
        self._update.touch()

    def begin(self, round: int) -> None:
        """The slot's owner turns to a round; its time counts from the last round's end, or from a takeover."""
        if self._begun != round:
            self._round_started, self._begun = time.perf_counter(), round
            self._compute_seconds = self._data_seconds = self._wait_seconds = self._update_seconds = 0.0

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for others."""
        self._wait_seconds += seconds

    # -- computing -----------------------------------------------------------------------------------------

    def compute(self, plan: Plan, round_: Round, phase: Phase) -> None:
        """Compute the slot's microbatches and leave partial sums (of a wave: rows and outputs)."""
        started = time.perf_counter()
        self._data_seconds = self._wait_seconds = self._update_seconds = 0.0
        self._control.wait(Control.DRAINED, plan.round - RECORDS + 1)  # a slow supervisor loses no record
        self._used[self.slot] = 0
        self._adapter.refresh(round_.step)
        if round_.evaluation is None:
            if self._tools.trace and self.slot == 0:
                self._digests = [blake2b(p.tobytes(), digest_size=8).hexdigest() for p in self._state.parameters()]
            steps, _ = self._cut_for(plan, self._program.nonempty(round_))
            for fold_step in steps:
                self._at(plan, fold_step.microbatch)
                phase("microbatch", plan.round, self.slot, fold_step.microbatch)
                self._microbatch(round_, fold_step.microbatch, fold_step.buffer)
                for into, other in fold_step.additions:
                    self._add(into, other)
        else:
            run = plan.run(self.slot)
            self._load_buffers(round_)
            for microbatch in range(run.start, min(run.stop, self._program.nonempty(round_))):
                self._at(plan, microbatch)
                phase("microbatch", plan.round, self.slot, microbatch)
                self._evaluate(round_, microbatch)
        self._at(plan, -1)
        self._compute_seconds = time.perf_counter() - started - self._data_seconds

    def _at(self, plan: Plan, microbatch: int) -> None:
        """Say what this slot is at: who dies here is known to have died of it."""
        self._computing[self.slot, 0] = plan.round << 32 | microbatch + 1

    def _cut_for(self, plan: Plan, total: int) -> tuple[Any, Any]:
        """(how this slot folds its microbatches, the sum over all slots' partial sums)."""
        signature = (plan.boundaries, total)
        if self._cut is None or self._cut[0] != signature:
            owned: dict[Node, tuple[int, int]] = {}
            mine: Any = ()
            for slot in range(self._slots):
                run = plan.run(slot)
                folded = fold(min(run.start, total), min(run.stop, total), total)
                owned.update({node: (slot, buffer) for node, buffer in folded.final.items()})
                if slot == self.slot:
                    mine = folded.steps
            self._cut = (signature, mine, expression(total, owned))
        return self._cut[1], self._cut[2]

    def _failed(self, error: Exception, where: str) -> WorkerFailed:
        if isinstance(error, LoaderFailed):
            return WorkerFailed(error.description)
        return WorkerFailed(failure(error, f"worker {self.slot}, {where}"))

    def _load_buffers(self, round_: Round) -> list[Array]:
        base = self._state.buffers(round_.step & 1)
        for live, value in zip(self._adapter.live_buffers(), base, strict=True):
            live[...] = value
        return base

    def _microbatch(self, round_: Round, microbatch: int, buffer: int) -> None:
        samples = self._program.samples(round_, microbatch)
        try:
            batch = self._take(round_, microbatch)
            started = time.perf_counter()
            base = self._load_buffers(round_)
            self._adapter.seed(key(self._job.seed, "compute", round_.step, microbatch))
            measured = self._adapter.gradient(batch, samples, self._gradient_buffers[buffer], self._used[self.slot])
        except Exception as error:
            raise self._failed(error, f"step {round_.step + 1}, microbatch {microbatch}") from error
        if base:
            self._keep_buffers(base, samples, microbatch, buffer)
        self._enter(microbatch, measured, samples, time.perf_counter() - started)

    def _take(self, round_: Round, microbatch: int) -> Any:
        """The samples of a microbatch; counts the time until they are there."""
        started = time.perf_counter()
        batch = self._tools.take(round_, microbatch)
        self._data_seconds += time.perf_counter() - started
        return batch

    def _enter(self, microbatch: int, measured: Measured, samples: int, seconds: float) -> None:
        row = self._table[microbatch]
        row[LOSS], row[WEIGHT], row[SAMPLES], row[SECONDS] = measured.loss, measured.weight, samples, seconds
        for index, (total, count) in enumerate(measured.metrics):
            row[METRICS + 2 * index], row[METRICS + 2 * index + 1] = total, count

    def _keep_buffers(self, base: list[Array], samples: int, microbatch: int, buffer: int) -> None:
        """Leave n·b of the floating-point buffers, and the first microbatch's others."""
        at = 0
        for index, (live, value) in enumerate(zip(self._adapter.live_buffers(), base, strict=True)):
            self._buffer_changed[buffer, index] = (
                not np.array_equal(live.view(np.uint8), value.view(np.uint8)) if live.ndim else live != value
            )
            if self._layout.description.buffers[index].dtype in FLOATING:
                self._buffer_sums[buffer, at : at + live.size] = live.ravel()
                self._buffer_sums[buffer, at : at + live.size] *= samples
                at += live.size
            if microbatch == 0:
                self._segment[f"buffer_first/{index}"][...] = live

    def _add(self, into: int, other: int) -> None:
        for region in self._layout.regions:
            vector = self._segment[f"gradients/{self.slot}/{region.index}"]
            np.add(vector[into], vector[other], out=vector[into])
        self._buffer_sums[into] += self._buffer_sums[other]
        self._buffer_changed[into] += self._buffer_changed[other]

    def _evaluate(self, round_: Round, microbatch: int) -> None:
        samples = self._program.samples(round_, microbatch)
        keep = self._layout.shape.object_metrics
        try:
            batch = self._take(round_, microbatch)
            self._adapter.seed(key(self._job.seed, "evaluate", round_.wave, microbatch))
            measured = self._adapter.evaluate(batch, samples, keep)
            if keep:
                pack(measured.outputs, self._segment[f"outputs/{microbatch}"], self._tools.reducers)
        except Exception as error:
            raise self._failed(error, f"evaluation after step {round_.step}, microbatch {microbatch}") from error
        self._enter(microbatch, measured, samples, 0.0)

    def _outputs_again(self, round_: Round, microbatch: int) -> Any:
        """What an earlier wave's microbatch gave, for a successor that did not see it."""
        self._load_buffers(round_)
        batch = self._tools.read(round_, microbatch)
        self._adapter.seed(key(self._job.seed, "evaluate", round_.wave, microbatch))
        return self._adapter.evaluate(batch, self._program.samples(round_, microbatch), True).outputs

    # -- updating ------------------------------------------------------------------------------------------

    def _sums_of(self, round_: Round) -> Array:
        sums: Array = np.add.accumulate(self._table[: self._program.nonempty(round_)], axis=0)[-1]
        return sums

    def publish_norms(self, plan: Plan, round_: Round) -> None:
        """Publish the norms of the slice's blocks."""
        started = time.perf_counter()
        _, tree = self._cut_for(plan, self._program.nonempty(round_))
        self._update.publish_norms(tree, float(self._sums_of(round_)[WEIGHT]))
        self._update_seconds += time.perf_counter() - started

    def update(self, plan: Plan, round_: Round, action: Action, progress: Words, phase: Phase) -> None:
        """Update the slice from the action's chunk on."""
        started = time.perf_counter()
        _, tree = self._cut_for(plan, self._program.nonempty(round_))
        weight = float(self._sums_of(round_)[WEIGHT])
        self._update.apply(plan.round, round_.step, tree, weight, self._job.clip_norm, action, progress, phase)
        self._update_seconds += time.perf_counter() - started

    def finish(self, plan: Plan, round_: Round) -> None:
        """What is left before the commit: buffers and the evaluation's sums (slot 0), the slot's record."""
        record: dict[str, Any] = {}
        if self.slot == 0:
            if round_.evaluation is None:
                self._average_buffers(plan, round_)
                record = self._step_record(round_)
                seconds = self._table[: self._program.nonempty(round_), SECONDS].tolist()
                pace = self._segment["pace"]
                pace[: self._slots] = smoothed(pace[: self._slots].tolist(), plan.boundaries, seconds)
            else:
                record = self._sums.add(round_, self._program.nonempty(round_))
            record["slots"] = self._slots
        self._record(plan.round, record)

    def _average_buffers(self, plan: Plan, round_: Round) -> None:
        """The buffers that changed become Σ nₘ·bₘ / Σ nₘ; integer ones the first microbatch's."""
        specs = self._layout.description.buffers
        if not specs:
            return
        _, tree = self._cut_for(plan, self._program.nonempty(round_))
        samples = float(self._sums_of(round_)[SAMPLES])
        sums = tree_sum(tree, lambda slot, buffer: self._segment[f"buffer_sums/{slot}"][buffer])
        changed = tree_sum(tree, lambda slot, buffer: self._segment[f"buffer_changed/{slot}"][buffer])
        old, new = self._state.buffers(round_.step & 1), self._state.buffers((round_.step + 1) & 1)
        at = 0
        for index, spec in enumerate(specs):
            floating = spec.dtype in FLOATING
            if not changed[index]:
                new[index][...] = old[index]
            elif floating:
                new[index][...] = (sums[at : at + new[index].size] / samples).reshape(new[index].shape)
            else:
                new[index][...] = self._segment[f"buffer_first/{index}"]
            at += new[index].size if floating else 0

    def stamp(self, plan: Plan, round_: Round) -> None:
        """Slot 0 leaves the next round's plan, unless a predecessor already has."""
        number = plan.round + 1
        if any(other is not None and other.round == number for other in self._state.plans()):
            return
        members = self._state.seats()
        following_round = self._program.at(number) if number < self._program.rounds else None
        boundaries = plan.boundaries
        if round_.evaluation is None or len(members) != self._slots:
            pace = self._segment["pace"][: len(members)]
            before = plan.boundaries if len(members) == self._slots else None
            boundaries = balanced(self._layout.shape.microbatches, len(members), pace.tolist(), before)
        stop = following_round is None or bool(self._control.get(Control.STOP))
        due = self._copy_is_due(round_, following_round)
        asked = self._control.get(Control.ASKED)
        self._state.stamp(following(plan, boundaries, members, due, asked, stop))

    def _copy_is_due(self, round_: Round, next_round: Round | None) -> bool:
        if round_.evaluation is not None:
            return self._tools.copy_evaluations and (next_round is None or next_round.evaluation is None)
        return self._tools.copy_every is not None and (round_.step + 1) % self._tools.copy_every == 0

    # -- records -------------------------------------------------------------------------------------------

    def _step_record(self, round_: Round) -> dict[str, Any]:
        sums = self._sums_of(round_)
        epoch, _ = self._program.batches.locate(round_.step)
        record: dict[str, Any] = {
            "step": round_.step + 1,
            "epoch": epoch + 1,
            "loss": float(sums[LOSS] / sums[WEIGHT]),
            "samples": int(sums[SAMPLES]),
        }
        for index, name in enumerate(self._sums.sum_names):
            record[name] = float(sums[METRICS + 2 * index] / sums[METRICS + 2 * index + 1])
        rate = self._adapter.learning_rate()
        if rate is not None:
            record["learning_rate"] = rate
        if self._job.clip_norm is not None:
            record["gradient_norm"] = self._update.norm()
        if self._tools.trace:
            record["digests"] = self._digests
        return record

    def _record(self, round: int, record: dict[str, Any]) -> None:
        now = time.perf_counter()
        times = (self._compute_seconds, self._data_seconds, self._wait_seconds, self._update_seconds)
        record["times"] = [float(f"{seconds:.7f}") for seconds in times]
        record["round_seconds"] = now - self._round_started
        self._round_started, self._begun = now, round + 1
        data = json.dumps(record).encode()
        assert len(data) <= RECORD_BYTES, "a record outgrew its entry"
        entry = round % RECORDS
        self._segment["records"][self.slot, entry, : len(data)] = np.frombuffer(data, np.uint8)
        self._segment["record_lengths"][self.slot, entry] = len(data)
