"""The rounds of one rank of a generation, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from unisono.frameworks.protocol import Array, Measured, Pending, Replica
from unisono.gradients.arithmetic import any_of, in_order
from unisono.gradients.tree import fold
from unisono.partition.keys import key
from unisono.runtime.rules.generations import Generation
from unisono.runtime.rules.plan import Plan
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.layout import SAMPLES, WEIGHT
from unisono.runtime.worker.context import Context
from unisono.runtime.worker.evaluation import EvaluationSums
from unisono.runtime.worker.microbatch import Microbatches
from unisono.runtime.worker.round_record import SlotRecords, step_record


def evaluate(
    context: Context, replica: Replica, round_: Round, microbatch: int, batch: Any, keep_outputs: bool
) -> None:  # fmt: skip
    """Compute a microbatch of a wave of an evaluation."""
    context.adapter.seed(key(context.job.seed, "evaluate", round_.wave, microbatch))
    replica.evaluate(batch, context.program.samples(round_, microbatch), keep_outputs)


def outputs_again(context: Context, replica: Replica, round_: Round, microbatch: int) -> Any:
    """What an earlier wave's microbatch gave, for a process that did not see it."""
    evaluate(context, replica, round_, microbatch, context.read(round_, microbatch), True)
    (measured,) = replica.rows()
    return measured.outputs


class ReplicaRounds:
    """What a rank does in each round.

    What others may still read of a round while this rank is at the next one lies there twice, by the round's parity.

    Args:
        context: what the work needs.
        replica: the rank's.
        evaluation: adds up the waves of evaluations here, in whatever generation.
        generation: which.
        rank: this one.
    """

    def __init__(
        self, context: Context, replica: Replica, evaluation: EvaluationSums, generation: Generation, rank: int
    ) -> None:
        self.generation, self._rank = generation, rank
        self._context, self._replica, self._program = context, replica, context.program
        self._segment = context.state.segment
        self._microbatches = Microbatches(context, rank)
        self._records = SlotRecords(context, rank, self._microbatches)
        self._evaluation = evaluation
        self._keeps = context.state.layout.shape.object_metrics
        self._digests: list[str] = []
        self._found: tuple[int, Array, Array] | None = None

    def compute(self, round_: Round, is_ended: Callable[[], bool]) -> bool:
        """Compute this rank's microbatches and leave their rows; returns whether that was done, and not given up.

        Raises:
            WorkerFailed: one failed.
        """
        self._records.begin(round_.number)
        self._context.schedule.catch_up(round_.number, self._segment)
        plan, total = self._plan(round_), self._program.nonempty(round_)
        run = range(*(min(edge, total) for edge in self.generation.boundaries[self._rank : self._rank + 2]))
        self._microbatches.table = self._segment["tables"][round_.number & 1]
        before, reading = time.perf_counter(), self._microbatches.data_seconds
        training = round_.evaluation is None
        measured: list[Measured] = []
        if training:
            if self._context.request.trace:
                self._digests = [blake2b(v.tobytes(), digest_size=8).hexdigest() for v in self._replica.parameters()]
            self._replica.begin(round_.step, total)
        steps = {step.microbatch: step for step in fold(run.start, run.stop, total).steps} if training else {}
        for microbatch in run:
            if is_ended():
                return False
            self._microbatches.turn_to(plan, microbatch)
            with self._microbatches.placed(self._place(round_, microbatch)):
                batch, samples = self._microbatches.take(round_, microbatch), self._program.samples(round_, microbatch)
                if training:
                    self._context.adapter.seed(key(self._context.job.seed, "compute", round_.step, microbatch))
                    self._replica.gradient(batch, samples, steps[microbatch])
                else:
                    evaluate(self._context, self._replica, round_, microbatch, batch, self._keeps)
                    if self._keeps:  # now: the next pass may write into the same tensors
                        measured += self._replica.rows()
                        self._microbatches.keep(round_, microbatch, measured[-1])
        with self._microbatches.placed(self._place(round_, run.start)):
            measured += self._replica.rows()
        seconds = time.perf_counter() - before
        for microbatch, row in zip(run, measured, strict=True):
            self._microbatches.enter(microbatch, row, self._program.samples(round_, microbatch), seconds / len(run))
        if training:
            self._segment["marks"][round_.number & 1, self._rank] = self._replica.used() if run else 0
        self._records.compute_seconds += seconds - (self._microbatches.data_seconds - reading)
        self._microbatches.at(plan, -1)
        return True

    def exchange(self, round_: Round) -> Pending:
        """All rows are there: begin to exchange."""
        self._look(round_)
        return self._replica.exchange(self.generation.boundaries)

    def finish(self, round_: Round) -> None:
        """Update the replica, where the round is one of training, and leave the record.

        Raises:
            WorkerFailed: a gradient is not finite.
        """
        rows, used = self._look(round_)
        started, record = time.perf_counter(), dict[str, Any]()
        if round_.evaluation is None:
            totals = in_order(rows)
            with self._microbatches.placed(f"step {round_.step + 1}"):
                norm = self._replica.update(float(totals[WEIGHT]), int(totals[SAMPLES]), used)
            record = step_record(self._context, round_, totals)
            if norm is not None:
                record["gradient_norm"] = norm
            if self._context.request.trace:
                record["digests"] = self._digests
        else:
            record = self._evaluation.add(round_, rows)
        self._records.update_seconds += time.perf_counter() - started
        self._records.leave(round_.number, record | {"slots": 1})

    def _look(self, round_: Round) -> tuple[Array, Array]:
        """The rows of the round, and which parameters have a gradient; whoever goes on to the next but one writes over
        what it was read from."""
        if self._found is None or self._found[0] != round_.number:
            at, ranks = round_.number & 1, len(self.generation.members)
            rows = self._segment["tables"][at, : self._program.nonempty(round_)].copy()
            self._found = round_.number, rows, any_of(self._segment["marks"][at, :ranks])
        return self._found[1:]

    def _plan(self, round_: Round) -> Plan:
        return Plan(round_.number, self.generation.boundaries, self.generation.members)

    @staticmethod
    def _place(round_: Round, microbatch: int) -> str:
        where = f"step {round_.step + 1}" if round_.evaluation is None else f"evaluation after step {round_.step}"
        return f"{where}, microbatch {microbatch}"
