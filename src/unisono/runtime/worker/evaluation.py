"""Evaluation sums in sample order: functions give (sum, count) per microbatch, objects are fed by one process."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unisono.errors import JobError, UsageError
from unisono.frameworks.protocol import Array
from unisono.job import Job
from unisono.memory.packing import unpack
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.layout import LOSS, METRICS, RECORD_BYTES, WEIGHT
from unisono.runtime.worker.context import Context


def ratio(total: float, count: float) -> float:
    """A mean; of nothing it is NaN.

    >>> ratio(3.0, 2.0), ratio(0.0, 0.0)
    (1.5, nan)
    """
    return float(total / count) if count else math.nan


def _prefix(evaluation: str) -> str:
    """What stands before the names of an evaluation's values in records."""
    return "evaluation" if evaluation == "evaluation" else f"evaluation/{evaluation}"


def named_by_best(job: Job, evaluations: Sequence[str]) -> tuple[int, str] | None:
    """Which evaluation has the value that `job.best` names, and its name in records; None where there is none to name.

    Args:
        job: the job.
        evaluations: the names of the evaluation sets.

    Raises:
        UsageError: no evaluation has such a value. (Which values a metric object gives is not known before.)
    """
    if job.best is None or not evaluations:
        return None
    wanted = f"evaluation/{job.best[1]}"
    for index, evaluation in enumerate(evaluations):
        for value in ("loss", *job.metrics):
            name = f"{_prefix(evaluation)}/{value}"
            if wanted == name or (value in job.metric_objects and wanted.startswith(f"{name}/")):
                return index, wanted
    values = [f"{_prefix(e)}/{v}".removeprefix("evaluation/") for e in evaluations for v in ("loss", *job.metrics)]
    fitting = [value for value in values if value.endswith(f"/{job.best[1]}")]
    way_out = f"Write best=({job.best[0]!r}, {(fitting or values)[0]!r})"
    raise UsageError(
        f"job.best must name an evaluation value, of named sets as SET/METRIC; received {job.best[1]!r}, there are "
        f"{', '.join(values)}. {way_out}."
    )


MOST_NAME_BYTES = RECORD_BYTES // 2
"""Of the names in one record: the values need room too."""


def check_names(job: Job, evaluations: Sequence[str]) -> None:
    """The names of a job's metrics fit into a record.

    Args:
        job: the job.
        evaluations: the names of the evaluation sets.

    Raises:
        UsageError: they do not.
    """
    for prefix in ("", *map(_prefix, evaluations)):
        size = sum(len(json.dumps(f"{prefix}/{metric}")) for metric in job.metrics)
        if size > MOST_NAME_BYTES:
            raise UsageError(
                f"the names of a job's metrics, with their evaluation set's, may take {MOST_NAME_BYTES:,} bytes in a "
                f"line of metrics.jsonl; received {size:,}. Give shorter names, or fewer metrics."
            )


class EvaluationSums:
    """Adds up the waves of an evaluation (slot 0 does so; each replica does).

    Args:
        context: what the work needs.
        again: (round, microbatch) → (outputs, targets) of an earlier wave, for a process that did not see it.
    """

    def __init__(self, context: Context, again: Callable[[Round, int], Any]) -> None:
        self._program, self._state, self._again, self._fed = context.program, context.state, again, -1
        self._objects = context.adapter.metric_objects(context.job.metric_objects)
        self._functions = list(context.job.metric_functions)
        self._best = named_by_best(context.job, [one.name for one in context.program.evaluations])

    def add(self, round_: Round, rows: Array) -> dict[str, Any]:
        """Add one wave.

        Args:
            round_: the wave.
            rows: what its microbatches gave.

        Returns:
            The evaluation's record after its last wave, else nothing.

        Raises:
            JobError: a metric object does not give the value that `job.best` names.
        """
        assert round_.evaluation is not None
        sums = self._state.segment["totals"]
        totals = np.empty_like(sums[0])
        totals[:] = sums[round_.wave + 1 & 1] if round_.wave else 0
        for row in rows:
            totals += row
        sums[round_.wave & 1] = totals
        if self._objects:
            self._feed(round_, len(rows))
        if not round_.last:
            return {}
        record = self._result(round_, totals)
        number = self._program.evaluations_by(round_.step - 1)
        if round_.evaluation == 0:
            self._state.segment["losses"][number] = ratio(totals[LOSS], totals[WEIGHT])
        if self._best is not None and round_.evaluation == self._best[0]:
            self._state.segment["watched"][number] = self._watched(record, self._best[1])
        return record

    @staticmethod
    def _watched(record: Mapping[str, Any], name: str) -> float:
        if name not in record:
            values = ", ".join(key.removeprefix("evaluation/") for key in record if key != "step")
            raise JobError(
                f"job.best must name an evaluation value; received {name.removeprefix('evaluation/')!r}, there are "
                f"{values}."
            )
        return float(record[name])

    def _feed(self, round_: Round, microbatches: int) -> None:
        """Feed the metric objects in sample order; they live in this process, so a newcomer starts over."""
        if round_.wave == 0 or self._fed != round_.number - 1:
            for metric in self._objects.values():
                metric.reset()
            for number in range(round_.number - round_.wave, round_.number):
                earlier = self._program.at(number)
                for microbatch in range(self._program.nonempty(earlier)):
                    self._give(self._again(earlier, microbatch))
        for microbatch in range(microbatches):
            self._give(unpack(self._state.segment[self._state.layout.outputs(round_.number, microbatch)]))
        self._fed = round_.number

    def _give(self, pair: Any) -> None:
        outputs, targets = pair
        for metric in self._objects.values():
            metric.update(outputs, targets)

    def _result(self, round_: Round, totals: Any) -> dict[str, Any]:
        assert round_.evaluation is not None
        prefix = _prefix(self._program.evaluations[round_.evaluation].name)
        record: dict[str, Any] = {"step": round_.step, f"{prefix}/loss": ratio(totals[LOSS], totals[WEIGHT])}
        for index, metric in enumerate(self._functions):
            record[f"{prefix}/{metric}"] = ratio(totals[METRICS + 2 * index], totals[METRICS + 2 * index + 1])
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
