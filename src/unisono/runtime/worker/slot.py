"""The work of one slot in a round, piece by piece; every piece can be done again by a successor.

What a piece writes is either the slot's own (partial sums, scratch, norms, its records) or double-buffered by the
parity of the step (buffers, optimizer scalars) or of the wave (evaluation sums), so that doing it twice gives the
same bits as doing it once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np

from unisono.errors import JobError
from unisono.frameworks.protocol import Array, GradientInParts
from unisono.gradients.adding import TreeAdder
from unisono.gradients.tree import FoldStep, fold
from unisono.memory.packing import pack
from unisono.memory.segment import touch
from unisono.memory.words import Words
from unisono.partition.keys import key
from unisono.runtime.rules.balance import balanced, smoothed
from unisono.runtime.rules.folding import Folding, folding
from unisono.runtime.rules.plan import Action, Plan, following, position
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.backward_progress import Reach
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_shares import Agreement
from unisono.runtime.state.layout import FLOATING, LOSS, METRICS, RECORDS, SAMPLES, SECONDS, WEIGHT, averaged_places
from unisono.runtime.worker.context import Phase, Tools
from unisono.runtime.worker.evaluation import EvaluationSums, ratio
from unisono.runtime.worker.microbatch import Microbatches
from unisono.runtime.worker.partial_sums import PartialSums
from unisono.runtime.worker.pipeline_slot import Awaited, stage_work
from unisono.runtime.worker.update import Update


class SlotWork:
    """One slot of a world of `slots`, in this process."""

    def __init__(self, tools: Tools, slots: int, slot: int) -> None:
        self._tools, self._slots, self.slot = tools, slots, slot
        self._job, self._program, self._state, self._adapter = tools.job, tools.program, tools.state, tools.adapter
        self._layout, self._segment = tools.state.layout, tools.state.segment
        segment = self._segment
        self._control = Words(segment, "control", 0.0)
        self._agreement = Agreement(tools.state)
        self._reach = Reach(tools.state)
        self._table, self._used = segment["table"], segment["used"]
        self.due = self._layout.due(slots, slot)
        self._update = Update(tools.state, tools.adapter, slot, self._layout.slices(slots)[slot])
        self._evaluation = EvaluationSums(
            tools.job, tools.program, tools.state, self._adapter.metric_objects(tools.job.metric_objects),
            self._outputs_again,
        )  # fmt: skip
        self._desk = Microbatches(tools, slot)
        self._staged = stage_work(tools, slot, slots, self._desk)
        self._sums = self._staged.sums if self._staged else self._sums_of_all()
        self._adds = bool(tools.adapter.can_add)
        self._passes: Iterator[Awaited] | None = None
        self._folded: tuple[Any, Folding] | None = None
        self._compute_seconds = self._wait_seconds = self._update_seconds = 0.0
        self._digests: list[str] = []
        self._round_started, self._begun = 0.0, -1  # when the round of this number began here

    def _sums_of_all(self) -> PartialSums | None:
        """Every parameter and buffer is the slot's own where the model is not cut."""
        if self._tools.cuts:
            return None
        description = self._layout.description
        return PartialSums(self._state, self._adapter, self.slot, self._layout.trained, range(len(description.buffers)))

    def touch(self, plan: Plan) -> None:
        """Map the memory that this slot works on into this process."""
        folded = fold(plan.run(self.slot).start, plan.run(self.slot).stop, self._layout.shape.microbatches)
        for region in self._layout.regions:
            touch(self._state.vector(region))
        if self._sums:
            self._sums.touch(folded.written(self._adds))
        self._update.touch()

    def begin(self, round: int) -> None:
        """The slot's owner turns to a round; its time counts from the last round's end, or from a takeover."""
        if self._begun != round:
            self._round_started, self._begun = time.perf_counter(), round
            self._reset_clocks()

    def _reset_clocks(self) -> None:
        self._compute_seconds = self._desk.data_seconds = self._wait_seconds = self._update_seconds = 0.0

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for others."""
        self._wait_seconds += seconds

    # -- computing -----------------------------------------------------------------------------------------

    def compute(self, plan: Plan, round_: Round, phase: Phase) -> Awaited | None:
        """Compute the slot's microbatches and leave partial sums (of a wave: rows and outputs).

        Returns:
            None when all is done; else what a neighbouring stage has to hand over before another call goes on.
        """
        if self._passes is None:
            self._reset_clocks()
            self._control.wait(Control.DRAINED, plan.round - RECORDS + 1)  # a slow supervisor loses no record
            self._used[self.slot] = 0
            if self.slot == 0:
                self._used[plan.slots : -1] = 0  # of slots that a larger plan had
            if plan.hosts:
                self._reach.begin(self.slot, plan.round)
            self._adapter.refresh(round_.step)
            self._passes = self._computing(plan, round_, phase)
        started, reading = time.perf_counter(), self._desk.data_seconds
        try:
            awaited = next(self._passes, None)
        except GradientInParts:  # what it was added to is lost: once more, from the first microbatch on
            self._adds, self._passes = False, None
            return self.compute(plan, round_, phase)
        self._compute_seconds += time.perf_counter() - started - (self._desk.data_seconds - reading)
        if awaited is None:
            self._passes = None
            if plan.hosts:
                self._reach.whole(self.slot)
            self._desk.at(plan, -1)
        return awaited

    def _computing(self, plan: Plan, round_: Round, phase: Phase) -> Iterator[Awaited]:
        if round_.evaluation is not None:
            self._evaluate_all(plan, round_, phase)
            return
        if self._tools.trace and self.slot == 0:
            begun = any(position(word, plan.round) for word in self._segment["progress"][:, 0].tolist())
            parameters = [] if begun else self._state.parameters()  # a successor may come too late to see them
            self._digests = [blake2b(values.tobytes(), digest_size=8).hexdigest() for values in parameters]
        steps = self._folding(plan, self._program.nonempty(round_)).steps
        if self._staged:
            yield from self._staged.passes(plan, round_, steps, phase, self._adds)
        elif self._sums:
            for step in steps:
                self._desk.at(plan, step.microbatch)
                phase("microbatch", plan.round, self.slot, step.microbatch)
                if plan.hosts and step is steps[-1]:
                    self._adapter.on_gradient = self._reach.listener(self.slot)
                self._microbatch(round_, step, self._sums)
            self._adapter.on_gradient = None

    def _folding(self, plan: Plan, total: int) -> Folding:
        signature = (plan.boundaries, plan.hosts, total)
        if self._folded is None or self._folded[0] != signature:
            self._folded = signature, folding(plan, self.slot // plan.stages, total)
        return self._folded[1]

    def _microbatch(self, round_: Round, step: FoldStep, sums: PartialSums) -> None:
        microbatch, samples = step.microbatch, self._program.samples(round_, step.microbatch)
        add = self._adds and bool(step.additions)
        with self._desk.placed(f"step {round_.step + 1}, microbatch {microbatch}"):
            batch = self._desk.take(round_, microbatch)
            started = time.perf_counter()
            with self._desk.timed("gradient", microbatch):
                base = self._desk.load_buffers(round_)
                self._adapter.seed(key(self._job.seed, "compute", round_.step, microbatch))
                into = sums.destination(step, add)
                measured = self._adapter.gradient(batch, samples, into, self._used[self.slot], add)
        if base:
            sums.keep_buffers(self._adapter.live_buffers(), base, samples, microbatch, step.buffer)
        self._desk.enter(microbatch, measured, samples, time.perf_counter() - started)
        sums.fold(step, add)

    def _evaluate_all(self, plan: Plan, round_: Round, phase: Phase) -> None:
        """A wave is shared out among all slots, each with the whole model: nothing is kept for a backward pass."""
        run = plan.run(self.slot)
        for microbatch in range(run.start, min(run.stop, self._program.nonempty(round_))):
            self._desk.at(plan, microbatch)
            phase("microbatch", plan.round, self.slot, microbatch)
            self._evaluate(round_, microbatch)

    def _evaluate(self, round_: Round, microbatch: int) -> None:
        samples = self._program.samples(round_, microbatch)
        keep = self._layout.shape.object_metrics
        with self._desk.placed(f"evaluation after step {round_.step}, microbatch {microbatch}"):
            batch = self._desk.take(round_, microbatch)
            with self._desk.timed("evaluate", microbatch):
                self._desk.load_buffers(round_)  # which a forward pass may change in evaluation too
                self._adapter.seed(key(self._job.seed, "evaluate", round_.wave, microbatch))
                measured = self._adapter.evaluate(batch, samples, keep)
            if keep:
                pack(measured.outputs, self._segment[f"outputs/{microbatch}"], self._tools.reducers)
        self._desk.enter(microbatch, measured, samples, 0.0)

    def _outputs_again(self, round_: Round, microbatch: int) -> Any:
        """What an earlier wave's microbatch gave, for a successor that did not see it."""
        self._desk.load_buffers(round_)
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
        tree = self._folding(plan, self._program.nonempty(round_)).gradients
        with self._desk.timed("norms"):
            self._update.publish_norms(tree, float(self._sums_of(round_)[WEIGHT]))
        self._update_seconds += time.perf_counter() - started

    def update(self, plan: Plan, round_: Round, action: Action, progress: Words, phase: Phase) -> None:
        """Update the action's chunks of the slice."""
        started = time.perf_counter()
        tree = self._folding(plan, self._program.nonempty(round_)).gradients
        weight = float(self._sums_of(round_)[WEIGHT])
        with self._desk.timed("update"):
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
                pace[: plan.pipes] = smoothed(pace[: plan.pipes].tolist(), plan.boundaries, seconds)
            else:
                record = self._evaluation.add(round_, self._program.nonempty(round_))
            record["slots"] = self._slots
        self._record(plan.round, record)

    def _average_buffers(self, plan: Plan, round_: Round) -> None:
        """The buffers that changed become Σ nₘ·bₘ / Σ nₘ; integer ones the first microbatch's.

        A step of weight 0 changes none.
        """
        specs = self._layout.description.buffers
        if not specs:
            return
        tree = self._folding(plan, self._program.nonempty(round_)).buffers
        samples = float(self._sums_of(round_)[SAMPLES])
        sums, changed = (self._sum(tree, name) for name in ("buffer_sums", "buffer_changed"))
        old, new = self._state.buffers(round_.step), self._state.buffers(round_.step + 1)
        skipped = self._sums_of(round_)[WEIGHT] == 0
        for index, (spec, place) in enumerate(zip(specs, averaged_places(specs), strict=True)):
            if skipped or not changed[index]:
                new[index][...] = old[index]
            elif spec.dtype in FLOATING:
                new[index][...] = (sums[place] / samples).reshape(new[index].shape)
            else:
                new[index][...] = self._segment[f"buffer_first/{index}"]

    def _sum(self, tree: Any, name: str) -> Array:
        """A sum along the tree of what the pipes have left under a name."""
        out = np.empty_like(self._segment[f"{name}/0"][0])
        return TreeAdder()(tree, lambda pipe, buffer: self._segment[f"{name}/{pipe}"][buffer], out)

    def stamp(self, plan: Plan, round_: Round) -> None:
        """Slot 0 leaves the next round's plan, unless a predecessor already has."""
        number = plan.round + 1
        if any(other is not None and other.round == number for other in self._state.plans.read()):
            return
        members = self._state.plans.seats()
        following_round = self._program.at(number) if number < self._program.rounds else None
        training = following_round is None or following_round.evaluation is None
        stages = self._layout.shape.stages if training else 1
        hosts = self._agreement.shares(training)
        boundaries = self._boundaries(plan, round_, len(members), stages, self._agreement.own(hosts))
        due = self._copy_is_due(round_, following_round)
        stop, asked = bool(self._control.get(Control.STOP)), self._control.get(Control.ASKED)
        if self._agreement.several:  # all of them make the same plan, of what they agreed on
            stop, asked = self._agreement.stop, self._agreement.asked
        self._state.plans.stamp(
            following(plan, boundaries, members, stages, due, asked, stop or following_round is None, hosts)
        )

    def _boundaries(self, plan: Plan, round_: Round, slots: int, stages: int, own: range) -> tuple[int, ...]:
        """The pipes' next shares of this host's microbatches; measured paces count after training rounds only."""
        same = (slots, stages, own.start, own.stop) == (self._slots, plan.stages, plan.own.start, plan.own.stop)
        if round_.evaluation is not None and same:
            return plan.boundaries
        pipes = slots // stages
        before = [boundary - own.start for boundary in plan.boundaries] if same else None
        pace = self._segment["pace"][:pipes].tolist()
        return tuple(own.start + boundary for boundary in balanced(len(own), pipes, pace, before))

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
            "loss": ratio(sums[LOSS], sums[WEIGHT]),
            "samples": int(sums[SAMPLES]),
        }
        if sums[WEIGHT] == 0:
            record["skipped"] = True
        for index, name in enumerate(self._job.training_metrics):
            record[name] = ratio(sums[METRICS + 2 * index], sums[METRICS + 2 * index + 1])
        rate = self._adapter.learning_rate()
        if rate is not None:
            record["learning_rate"] = rate
        if self._job.waits_for_norms:
            record["gradient_norm"] = self._update.norm()
        if self._tools.trace:
            record["digests"] = self._digests
        return record

    def _record(self, number: int, record: dict[str, Any]) -> None:
        now = time.perf_counter()
        times = (self._compute_seconds, self._desk.data_seconds, self._wait_seconds, self._update_seconds)
        record["times"] = [float(f"{seconds:.7f}") for seconds in times]
        record["round_seconds"] = now - self._round_started
        if self._tools.timeline:
            record["events"] = [(n, m, round(a, 6), round(b, 6)) for n, m, a, b in self._desk.events]
            self._desk.events.clear()
        self._round_started, self._begun = now, number + 1
        data = json.dumps(record).encode()
        most = self._segment["records"].shape[2]
        if len(data) > most:
            raise JobError(
                f"a step's record, a line of metrics.jsonl, may take {most:,} bytes; this one takes {len(data):,}. Let "
                "metrics give fewer values, or give them shorter names."
            )
        entry = number % RECORDS
        self._segment["records"][self.slot, entry, : len(data)] = np.frombuffer(data, np.uint8)
        self._segment["record_lengths"][self.slot, entry] = len(data)
