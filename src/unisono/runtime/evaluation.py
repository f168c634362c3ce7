"""Evaluation sums in sample order: functions give (sum, count) per microbatch, objects are fed by one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unisono.job import Job
from unisono.memory.packing import unpack
from unisono.runtime.program import Program, Round
from unisono.runtime.state import HostState


class EvaluationSums:
    """Adds up the waves of an evaluation (slot 0 does so)."""

    def __init__(self, job: Job, program: Program, state: HostState) -> None:
        self._program = program
        self._state = state
        self._objects = {name: metric for name, metric in job.metrics.items() if hasattr(metric, "update")}
        self.sum_names = [name for name in job.metrics if name not in self._objects]

    def add(self, round_: Round, microbatches: int) -> dict[str, Any]:
        """Add one wave.

        Args:
            round_: the wave.
            microbatches: how many have samples.

        Returns:
            The evaluation's record after its last wave, else nothing.
        """
        assert round_.evaluation is not None
        totals = self._state.segment["totals"][round_.evaluation]
        if round_.wave == 0:
            totals[:] = 0
            for metric in self._objects.values():
                metric.reset()
        for row in self._state.segment["table"][:microbatches]:
            totals += row
        for microbatch in range(microbatches if self._objects else 0):
            outputs, targets = unpack(self._state.segment[f"outputs/{microbatch}"])
            for metric in self._objects.values():
                metric.update(outputs, targets)
        return self._result(round_, totals) if round_.last else {}

    def _result(self, round_: Round, totals: Any) -> dict[str, Any]:
        assert round_.evaluation is not None
        name = self._program.evaluations[round_.evaluation].name
        prefix = "evaluation" if name == "evaluation" else f"evaluation/{name}"
        record: dict[str, Any] = {"step": round_.step, f"{prefix}/loss": float(totals[0] / totals[1])}
        for index, metric in enumerate(self.sum_names):
            record[f"{prefix}/{metric}"] = float(totals[4 + 2 * index] / totals[5 + 2 * index])
        for metric_name, metric in self._objects.items():
            record.update(_numbers(f"{prefix}/{metric_name}", metric.compute()))
        return record


def _numbers(name: str, value: Any) -> dict[str, float]:
    """A metric's value as named numbers: mappings and vectors get one name an entry."""
    if isinstance(value, Mapping):
        return {k: v for key, item in value.items() for k, v in _numbers(f"{name}/{key}", item).items()}
    array = np.asarray(value, dtype=np.float64)
    if array.ndim == 0:
        return {name: float(array)}
    return {f"{name}/{index}": float(item) for index, item in enumerate(array.ravel())}
