"""What a slot says of a round when it is done: seconds, and of the first slot what a person sees of the step."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from unisono.errors import JobError
from unisono.frameworks.protocol import Array
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.layout import LOSS, METRICS, RECORDS, SAMPLES, WEIGHT
from unisono.runtime.worker.context import Context
from unisono.runtime.worker.evaluation import ratio
from unisono.runtime.worker.microbatch import Microbatches


def step_record(context: Context, round_: Round, totals: Array) -> dict[str, Any]:
    """What a step gives, as a person sees it.

    Args:
        context: what the work needs.
        round_: the step's.
        totals: of its rows in the table of microbatches.
    """
    epoch, _ = context.program.batches.locate(round_.step)
    record: dict[str, Any] = {
        "step": round_.step + 1,
        "epoch": epoch + 1,
        "loss": ratio(totals[LOSS], totals[WEIGHT]),
        "samples": int(totals[SAMPLES]),
    }
    if totals[WEIGHT] == 0:
        record["skipped"] = True
    for index, name in enumerate(context.job.training_metrics):
        record[name] = ratio(totals[METRICS + 2 * index], totals[METRICS + 2 * index + 1])
    rate = context.adapter.learning_rate()
    if rate is not None:
        record["learning_rate"] = rate
    return record


class SlotRecords:
    """Counts a slot's seconds, and leaves its records in shared memory.

    Args:
        context: what the work needs.
        slot: whose.
        microbatches: count the seconds that samples take.

    Attributes:
        compute_seconds, wait_seconds, update_seconds: of this round.
    """

    def __init__(self, context: Context, slot: int, microbatches: Microbatches) -> None:
        self._segment, self._timeline = context.state.segment, context.request.timeline
        self._slot, self._microbatches = slot, microbatches
        self._started, self._begun = 0.0, -1  # when the round of this number began here
        self.reset()

    def begin(self, round: int) -> None:
        """The slot's owner turns to a round; its time counts from the last round's end, or from a takeover."""
        if self._begun != round:
            self._started, self._begun = time.perf_counter(), round
            self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self.compute_seconds = self.wait_seconds = self.update_seconds = self._microbatches.data_seconds = 0.0

    def leave(self, number: int, record: dict[str, Any]) -> None:
        """Leave a round's record.

        Args:
            number: the round's.
            record: what is known of it besides its seconds.

        Raises:
            JobError: it is too long.
        """
        now = time.perf_counter()
        times = (self.compute_seconds, self._microbatches.data_seconds, self.wait_seconds, self.update_seconds)
        record["times"] = [float(f"{seconds:.7f}") for seconds in times]
        record["round_seconds"] = now - self._started
        if self._timeline:
            record["events"] = [(n, m, round(a, 6), round(b, 6)) for n, m, a, b in self._microbatches.events]
            self._microbatches.events.clear()
        self._started, self._begun = now, number + 1
        data, area = json.dumps(record).encode(), self._segment["records"][self._slot, number % RECORDS]
        if len(data) > area.size:
            raise JobError(
                f"a step's record, a line of metrics.jsonl, may take {area.size:,} bytes; this one takes {len(data):,}."
                " Let metrics give fewer values, or give them shorter names."
            )
        area[: len(data)] = np.frombuffer(data, np.uint8)
        self._segment["record_lengths"][self._slot, number % RECORDS] = len(data)
