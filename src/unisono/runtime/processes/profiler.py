"""Would a batch in fewer, larger microbatches make this run's steps faster? A spare process finds out beside the run.

It is forked once, after a while, and takes the time that workers leave. Its writes to the shared memory stay its own,
it reads no sample (its second batch is the first one twice over), and what goes wrong in it is nobody's matter.
"""

from __future__ import annotations

import math
import os
import pickle
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from unisono.errors import SpoiledError
from unisono.memory.heap import LARGE_BYTES, keep_freed
from unisono.partition.rows import rows
from unisono.runtime.preparation.prepared import Described, Prepared
from unisono.runtime.processes.printing import print_nothing

BEGIN_SECONDS = 10.0
"""Steps that a run has done before it is looked at, in seconds: nobody waits for a shorter one."""

STEPS = 20
"""The steps that its pace is taken from: the last ones."""

WORTH = 1.3
"""How much faster is worth a word."""

TURNS = 3

TRIES = 20
"""Of a microbatch, while workers update what it computes with."""


@dataclass
class Profiler:
    """Decides when to look at a run, and what to say of it.

    Args:
        batch_size, microbatches: how a batch is cut; those of them that hold samples.
        workers: how many share them.

    >>> profiler = Profiler(32, 8, 2)
    >>> for _ in range(200):
    ...     profiler.record({"step_seconds": 0.056, "compute_seconds": [0.045, 0.044]})
    >>> profiler.is_due, profiler.is_due
    (True, False)
    >>> profiler.advice(0.0086, 0.0095)
    'microbatches=2 would make a step about 2.2 × faster here; it is another result: choose once'
    """

    batch_size: int
    microbatches: int
    workers: int

    def __post_init__(self) -> None:
        self._fewer = max(2, self.workers)  # with one, nobody could ever help
        self._paces: deque[tuple[float, float]] = deque(maxlen=STEPS)
        self._seconds = 0.0
        self._waits = self._rounds(self._fewer) < self._rounds(self.microbatches)

    @classmethod
    def of(cls, described: Described) -> Profiler:
        """The profiler of a run on one host."""
        shape, batches = described.layout.shape, described.program.batches
        return cls(min(batches.batch_size, batches.length), shape.most, shape.slots)

    def record(self, record: Mapping[str, Any]) -> None:
        """A round's merged record."""
        if self._waits and "step_seconds" in record:
            self._seconds += record["step_seconds"]
            self._paces.append((record["step_seconds"], max(record["compute_seconds"])))

    @property
    def is_due(self) -> bool:
        """Whether to start the spare process now; true once."""
        if not self._waits or self._seconds < BEGIN_SECONDS or len(self._paces) < STEPS:
            return False
        self._waits = False
        return True

    def advice(self, once: float, twice: float) -> str | None:
        """What a person should know.

        Args:
            once: seconds for the gradient of a microbatch; 0 = they could not be had.
            twice: of twice as many samples.
        """
        if not (once > 0 and twice > 0):
            return None
        fixed = min(max(2 * once - twice, 0.0), once)
        sample = (once - fixed) / self._samples(self.microbatches)

        def computing(microbatches: int) -> float:
            return self._rounds(microbatches) * (fixed + sample * self._samples(microbatches))

        step, compute = (median(column) for column in zip(*self._paces, strict=True))
        saved = compute * (1 - computing(self._fewer) / computing(self.microbatches))
        factor = step / (step - saved)
        if factor < WORTH:
            return None
        return (
            f"microbatches={self._fewer} would make a step about {factor:.1f} × faster here; it is another result: "
            "choose once"
        )

    def _rounds(self, microbatches: int) -> int:
        """How many microbatches a worker computes one after another."""
        return math.ceil(microbatches / self.workers)

    def _samples(self, microbatches: int) -> int:
        return math.ceil(self.batch_size / microbatches)


def stand_back() -> None:
    """Take the time that others leave, be the first to go where memory runs out, and print nothing."""
    os.nice(10)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    print_nothing()


def measured(prepared: Prepared) -> tuple[float, float]:
    """CPU seconds for the gradient of a microbatch, and of twice as many samples.

    Args:
        prepared: the job, over memory to which nobody else looks.
    """
    prepared.framework.data.pin(prepared.request.threads)
    keep_freed(LARGE_BYTES)
    samples = min(prepared.described.data_length, prepared.program.batches.microbatch_size)
    batch = pickle.loads(prepared.packed or b"")
    description = prepared.layout.description
    specs = {n: spec for n, spec in enumerate(description.parameters) if description.owners[n] is not None}
    into = prepared.adapter.gradient_buffers({n: np.zeros(spec.shape, spec.dtype) for n, spec in specs.items()})
    used = np.zeros(len(description.parameters), np.uint8)

    def seconds(batch: Any, samples: int) -> float:
        for left in reversed(range(TRIES)):
            prepared.adapter.seed(0)
            started = time.process_time()
            try:
                prepared.adapter.gradient(batch, samples, into, used)
                break
            except SpoiledError:  # a page that is only read here shows what workers write: their update fell into it
                if not left:
                    raise
        return time.process_time() - started

    batches = (batch, samples), (rows(batch, np.tile(np.arange(samples), 2), samples), 2 * samples)
    turns = [[seconds(*batch) for batch in batches] for _ in range(1 + TURNS)]
    once, twice = np.min(turns[1:], axis=0).tolist()  # the first time is not the run's pace: something may be compiled
    return once, twice
