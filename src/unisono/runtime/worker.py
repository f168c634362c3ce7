"""A worker's life: compute its slot's microbatches, wait, sum and update its slice, wait, again.

Every wait is for words of other slots, so that whoever owns a slot later can go on from its words alone:

    summed      rounds whose partial sums are complete
    normed      rounds whose block norms are published (with clip_norm)
    progress    2k: the chunks before k are in place; 2k+1: the scratch of chunk k is valid too
    committed   rounds whose update (or evaluation) is complete
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from unisono.frameworks.protocol import Array, Measured
from unisono.gradients.tree import Node, expression, fold
from unisono.job import Job
from unisono.memory.packing import pack
from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.partition.keys import key
from unisono.partition.plan import Plan
from unisono.runtime.evaluation import EvaluationSums
from unisono.runtime.failure import failure
from unisono.runtime.program import Program, Round
from unisono.runtime.samples import LoaderFailed
from unisono.runtime.state import FLOATING, RECORD_BYTES, RECORDS, HostLayout, HostState
from unisono.runtime.update import Update, tree_sum

LOSS, WEIGHT, SAMPLES, SECONDS, METRICS = 0, 1, 2, 3, 4
STOP, DRAINED = 0, 1


class Worker:
    """The owner of one slot.

    Args:
        job: the job.
        program: its rounds.
        slot: which slot.
        state: the host's shared state.
        adapter: the framework's adapter, bound to the shared parameters.
        take: (round, microbatch) → (inputs, targets).
        spin_seconds: how long waits look before they sleep.
        trace: also record a digest of every parameter before each step (`verify`).
        reduce: how tensors are sent (evaluation outputs).
    """

    def __init__(
        self,
        job: Job,
        program: Program,
        slot: int,
        state: HostState,
        adapter: Any,
        take: Callable[[Round, int], Any],
        spin_seconds: float,
        reduce: Any,
        trace: bool = False,
    ) -> None:
        self._job, self._program, self._slot, self._state, self._adapter = job, program, slot, state, adapter
        self._take, self._reduce, self._trace = take, reduce, trace
        self._layout: HostLayout = state.layout
        segment: Segment = state.segment
        self._segment = segment
        self._slots = self._layout.shape.slots
        self._summed, self._normed, self._committed, self._control = (
            Words(segment, name, spin_seconds) for name in ("summed", "normed", "committed", "control")
        )
        self._table = segment["table"]
        self._totals = segment["totals"]
        self._used = segment["used"]
        self._update = Update(state, adapter, slot, Words(segment, "progress", spin_seconds), job.clip_norm)
        self._sums = EvaluationSums(job, program, state)
        self._gradient_buffers = self._destinations()
        self._buffer_sums = segment[f"buffer_sums/{slot}"]
        self._buffer_changed = segment[f"buffer_changed/{slot}"]
        self._cut: tuple[Any, Any, Any] | None = None
        self._times = [0.0, 0.0, 0.0]
        self._round_started = time.perf_counter()

    def _destinations(self) -> list[Any]:
        """Per gradient buffer of the slot: parameter number → where its gradient goes."""
        buffers = []
        for index in range(self._layout.gradient_buffers):
            arrays: dict[int, Array] = {}
            for region in self._layout.regions:
                vector = self._segment[f"gradients/{self._slot}/{region.index}"][index]
                for p in region.parameters:
                    arrays[p.number] = vector[p.offset : p.end].reshape(p.shape)
            buffers.append(self._adapter.gradient_buffers(arrays))
        return buffers

    # -- the run -------------------------------------------------------------------------------------------

    def run(self, after_round: Callable[[], None] | None = None) -> None:
        """Do every round, or until the plan says stop."""
        for round_ in self._program:
            plan = self._plan(round_.number)
            if plan.stop:
                return
            self._wait_for_supervisor(round_.number)
            if round_.evaluation is None:
                self._step(round_, plan)
            else:
                self._wave(round_, plan)
            if after_round:
                after_round()

    def _plan(self, number: int) -> Plan:
        if number == 0:
            return Plan.even(0, self._layout.shape.microbatches, self._slots)
        words = self._segment["plans"][number & 1]
        return Plan.from_words([int(word) for word in words[1 : 1 + int(words[0])]])

    def _stamp_next_plan(self, plan: Plan) -> None:
        """Slot 0 decides the next round's plan before it commits this one."""
        if self._slot:
            return
        following = plan.successor(stop=bool(self._control.get(STOP)))
        words = following.to_words()
        area = self._segment["plans"][following.round & 1]
        area[1 : 1 + len(words)] = words
        area[0] = len(words)

    def _wait_for_supervisor(self, number: int) -> None:
        self._control.wait(DRAINED, number - RECORDS + 1)

    def _barrier(self, words: Words, number: int) -> None:
        started = time.perf_counter()
        for slot in range(self._slots):
            words.wait(slot, number + 1)
        self._times[1] += time.perf_counter() - started

    # -- a training step -----------------------------------------------------------------------------------

    def _step(self, round_: Round, plan: Plan) -> None:
        started = time.perf_counter()
        self._times = [0.0, 0.0, 0.0]
        total = self._program.nonempty(round_)
        steps, tree = self._cut_for(plan, total)
        digests = self._digests() if self._trace and self._slot == 0 else None
        self._used[self._slot] = 0
        for fold_step in steps:
            self._microbatch(round_, fold_step.microbatch, fold_step.buffer)
            for into, other in fold_step.additions:
                self._add(into, other)
        self._times[0] = time.perf_counter() - started
        self._summed.publish(self._slot, round_.number + 1)
        self._barrier(self._summed, round_.number)
        updating = time.perf_counter()
        sums = np.add.accumulate(self._table[:total], axis=0)[-1]
        norm = self._update.apply(round_, tree, float(sums[WEIGHT]), lambda: self._norms_ready(round_))
        self._average_buffers(round_, tree)
        self._times[2] = time.perf_counter() - updating
        rate = self._adapter.learning_rate()
        self._adapter.advance_schedule()
        self._record(round_, self._step_record(round_, sums, norm, rate, digests), started)
        self._stamp_next_plan(plan)
        self._committed.publish(self._slot, round_.number + 1)
        self._barrier(self._committed, round_.number)

    def _norms_ready(self, round_: Round) -> None:
        """The third barrier: every slot has published its blocks' norms."""
        self._normed.publish(self._slot, round_.number + 1)
        self._barrier(self._normed, round_.number)

    def _cut_for(self, plan: Plan, total: int) -> tuple[Any, Any]:
        signature = (plan.boundaries, total)
        if self._cut is None or self._cut[0] != signature:
            owned: dict[Node, tuple[int, int]] = {}
            mine: Any = ()
            for slot in range(self._slots):
                run = plan.run(slot)
                folded = fold(min(run.start, total), min(run.stop, total), total)
                owned.update({node: (slot, buffer) for node, buffer in folded.final.items()})
                if slot == self._slot:
                    mine = folded.steps
            self._cut = (signature, mine, expression(total, owned))
        return self._cut[1], self._cut[2]

    def _microbatch(self, round_: Round, microbatch: int, buffer: int) -> None:
        started = time.perf_counter()
        samples = self._program.samples(round_, microbatch)
        where = f"worker {self._slot}, step {round_.step + 1}, microbatch {microbatch}"
        try:
            batch = self._take(round_, microbatch)
            base = self._state.buffers(round_.step & 1)
            for live, value in zip(self._adapter.live_buffers(), base, strict=True):
                live[...] = value
            self._adapter.seed(key(self._job.seed, "compute", round_.step, microbatch))
            measured = self._adapter.gradient(batch, samples, self._gradient_buffers[buffer], self._used[self._slot])
        except LoaderFailed as error:
            raise WorkerFailed(error.description) from error
        except Exception as error:
            raise WorkerFailed(failure(error, where)) from error
        if base:
            self._keep_buffers(base, samples, microbatch, buffer)
        self._enter(microbatch, measured, samples, time.perf_counter() - started)

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
            vector = self._segment[f"gradients/{self._slot}/{region.index}"]
            np.add(vector[into], vector[other], out=vector[into])
        self._buffer_sums[into] += self._buffer_sums[other]
        self._buffer_changed[into] += self._buffer_changed[other]

    def _average_buffers(self, round_: Round, tree: Any) -> None:
        """Slot 0: the buffers that changed become Σ nₘ·bₘ / Σ nₘ; integer ones the first microbatch's."""
        specs = self._layout.description.buffers
        if self._slot or not specs:
            return
        samples = float(np.add.accumulate(self._table[: self._program.nonempty(round_), SAMPLES])[-1])
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

    def _digests(self) -> list[str]:
        from hashlib import blake2b

        return [blake2b(p.tobytes(), digest_size=8).hexdigest() for p in self._state.parameters()]

    # -- an evaluation wave --------------------------------------------------------------------------------

    def _wave(self, round_: Round, plan: Plan) -> None:
        started = time.perf_counter()
        self._times = [0.0, 0.0, 0.0]
        total = self._program.nonempty(round_)
        run = plan.run(self._slot)
        base = self._state.buffers(round_.step & 1)
        for live, value in zip(self._adapter.live_buffers(), base, strict=True):
            live[...] = value
        for microbatch in range(run.start, min(run.stop, total)):
            samples = self._program.samples(round_, microbatch)
            where = f"worker {self._slot}, evaluation after step {round_.step}, microbatch {microbatch}"
            try:
                batch = self._take(round_, microbatch)
                self._adapter.seed(key(self._job.seed, "evaluate", round_.wave, microbatch))
                measured = self._adapter.evaluate(batch, samples, self._layout.shape.object_metrics)
                if self._layout.shape.object_metrics:
                    pack(measured.outputs, self._segment[f"outputs/{microbatch}"], self._reduce)
            except LoaderFailed as error:
                raise WorkerFailed(error.description) from error
            except Exception as error:
                raise WorkerFailed(failure(error, where)) from error
            self._enter(microbatch, measured, samples, 0.0)
        self._times[0] = time.perf_counter() - started
        self._summed.publish(self._slot, round_.number + 1)
        self._barrier(self._summed, round_.number)
        self._finish_wave(round_, total, started)
        self._stamp_next_plan(plan)
        self._committed.publish(self._slot, round_.number + 1)
        self._barrier(self._committed, round_.number)
        if round_.last and round_.evaluation == 0:
            loss = self._totals[0]
            self._adapter.advance_plateau(float(loss[LOSS] / loss[WEIGHT]))

    def _finish_wave(self, round_: Round, total: int, started: float) -> None:
        """Slot 0 adds the wave's sums to the evaluation's, in sample order."""
        record: dict[str, Any] = {}
        if self._slot == 0:
            try:
                record = self._sums.add(round_, total)
            except Exception as error:
                where = f"worker 0, evaluation after step {round_.step}"
                raise WorkerFailed(failure(error, where)) from error
        self._record(round_, record, started)

    # -- records -------------------------------------------------------------------------------------------

    def _step_record(
        self, round_: Round, sums: Array, norm: float | None, rate: float, digests: list[str] | None
    ) -> dict[str, Any]:
        if self._slot:
            return {}
        epoch, _ = self._program.batches.locate(round_.step)
        record: dict[str, Any] = {
            "step": round_.step + 1,
            "epoch": epoch + 1,
            "loss": float(sums[LOSS] / sums[WEIGHT]),
            "samples": int(sums[SAMPLES]),
        }
        names = self._sums.sum_names
        for index, name in enumerate(names):
            record[name] = float(sums[METRICS + 2 * index] / sums[METRICS + 2 * index + 1])
        record["learning_rate"] = rate
        if norm is not None:
            record["gradient_norm"] = norm
        if digests is not None:
            record["digests"] = digests
        return record

    def _record(self, round_: Round, record: dict[str, Any], started: float) -> None:
        now = time.perf_counter()
        record["times"] = [round(seconds, 7) for seconds in self._times]
        record["round_seconds"] = now - self._round_started
        self._round_started = now
        data = json.dumps(record).encode()
        assert len(data) <= RECORD_BYTES, "a record outgrew its entry"
        entry = round_.number % RECORDS
        self._segment["records"][self._slot, entry, : len(data)] = np.frombuffer(data, np.uint8)
        self._segment["record_lengths"][self._slot, entry] = len(data)


class WorkerFailed(Exception):
    """The job failed in this worker; carries the description."""

    def __init__(self, description: Any) -> None:
        super().__init__(description.message)
        self.description = description
