"""Beside the plain framework: one batch computed at once, and from its microbatches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from unisono.commands.verify.loss_kinds import CLOSE, Kind, Value, close, kind_of
from unisono.frameworks.protocol import Array, Measured
from unisono.frameworks.registry import made
from unisono.job import Job
from unisono.partition.order import epoch_order
from unisono.partition.rows import NoRows, rows
from unisono.runtime.loader.samples import Example, collated
from unisono.runtime.preparation.open_data import open_data

Finding = Kind | Literal["padding", "statistics", "random"]

SHORT_FLOATS = 0.05
"""How far two ways of computing may be apart in bfloat16."""

GRADIENTS = 1e-3
"""How far two gradients may be apart, beside the norm of one."""


@dataclass(frozen=True)
class WholeBatch:
    """What was found.

    Attributes:
        samples: of the batch.
        size: of a microbatch.
        whole: the batch's loss in evaluation mode, computed at once.
        cut: the same from its microbatches.
        finding: what the loss is; "padding": it depends on how far a batch is padded; "statistics": the gradient
            follows the microbatch's statistics; "random": `collate` or the evaluation draws, so nothing was compared.
        distance: how far the gradients are apart, beside the norm of one; None where the model draws while it trains.
        buffers: floating-point buffers that a forward pass changes.
        metrics: metric functions whose value depends on how a batch is cut.
    """

    samples: int
    size: int
    whole: float
    cut: float
    finding: Finding
    distance: float | None = None
    buffers: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


def compared(job: Job) -> WholeBatch | None:
    """Compute a batch both ways; None where a batch is one microbatch.

    Args:
        job: the job.
    """
    bench = _Bench(job)
    everything = range(len(bench.indices))
    groups = [everything[start : start + bench.size] for start in everything[:: bench.size]]
    if len(groups) < 2:
        return None
    tolerance = SHORT_FLOATS if job.precision == "bfloat16" else CLOSE
    whole, cut = bench.batch(everything), [bench.batch(group) for group in groups]
    value, parts = bench.value(whole, everything), bench.values(cut, groups)
    seen = (len(everything), bench.size, value.mean, parts.mean)
    if bench.value(bench.batch(everything, seed=1), everything, seed=1) != value:
        return WholeBatch(*seen, "random")
    sliced = rows_of(whole, groups, len(everything))
    same_padding = cut if sliced is None else sliced
    metrics = bench.torn_metrics((whole, everything), (same_padding, groups))
    finding: Finding = "mean"
    if not close(value.mean, parts.mean, tolerance):
        if sliced is not None and close(value.mean, bench.values(sliced, groups).mean, tolerance):
            finding = "padding"
        else:
            return WholeBatch(*seen, bench.kind(whole, value, sliced is not None, tolerance), metrics=metrics)
    gradient, buffers = bench.gradient([whole], [everything])
    if not np.array_equal(gradient, bench.gradient([whole], [everything], seed=1)[0]):
        return WholeBatch(*seen, finding, None, buffers, metrics)
    difference = np.linalg.norm(bench.gradient(same_padding, groups)[0] - gradient)
    distance = float(difference / max(float(np.linalg.norm(gradient)), 1e-30))
    if distance > max(GRADIENTS, tolerance):
        finding = "statistics" if buffers else "coupled"
    return WholeBatch(*seen, finding, distance, buffers, metrics)


def rows_of(batch: Any, groups: Sequence[range], samples: int) -> list[Any] | None:
    """A batch cut along the first dimension of every array in it; None where something in it has another one.

    >>> rows_of(({"x": np.arange(3)}, None), [range(0, 2), range(2, 3)], 3)
    [({'x': array([0, 1])}, None), ({'x': array([2])}, None)]
    >>> rows_of((np.arange(3), np.arange(4)), [range(0, 2)], 3)
    """
    try:
        return [rows(batch, slice(group.start, group.stop), samples) for group in groups]
    except NoRows:
        return None


class _Bench:
    """The job in this process, with the model's first values.

    Args:
        job: the job.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._framework, model = made(job, 1)
        self._framework.data.pin(1)
        opened = open_data(job, self._framework.data)
        self._adapter = self._framework.adapter(job, model, 1, Example(job, opened, self._framework.data))
        order = epoch_order(job.order, len(opened.training), job.seed, 0)[: job.batch_size]
        self.indices = [int(index) for index in order]
        self.size = -(-job.batch_size // job.microbatches)
        self._framework.data.seed_everything(0)
        self._samples = [opened.training[index] for index in self.indices]
        self._description = self._adapter.describe()
        self._buffers = [buffer.copy() for buffer in self._adapter.live_buffers()]

    def batch(self, places: Sequence[int], seed: int = 0) -> Any:
        """(inputs, targets) of some of the batch's samples."""
        chosen = [self._samples[place] for place in places]
        self._framework.data.seed_everything(seed)
        return collated(self._job, self._framework.data, chosen, [self.indices[place] for place in places])

    def _measured(self, batch: Any, places: Sequence[int], seed: int = 0) -> Measured:
        self._begin(seed)
        measured: Measured = self._adapter.evaluate(batch, len(places), False)
        return measured

    def _begin(self, seed: int) -> None:
        self._adapter.load_buffers(self._buffers)
        self._adapter.seed(seed)

    def value(self, batch: Any, places: Sequence[int], seed: int = 0) -> Value:
        """The loss in evaluation mode."""
        measured = self._measured(batch, places, seed)
        return Value(measured.loss, measured.weight)

    def values(self, batches: Sequence[Any], groups: Sequence[Sequence[int]]) -> Value:
        """The same, summed over microbatches."""
        first, *others = [self.value(batch, group) for batch, group in zip(batches, groups, strict=True)]
        return sum(others, first)

    def kind(self, whole: Any, value: Value, sliced: bool, tolerance: float) -> Kind:
        """What the loss is, seen on thirds of the batch.

        Args:
            whole: the batch.
            value: its loss.
            sliced: whether its parts are cut out of it; else they are collated anew.
            tolerance: see `close`.
        """
        count = len(self.indices)
        ends = sorted({count * third // 3 for third in range(4)})
        thirds = [range(start, end) for start, end in pairwise(ends)]
        pairs = [range(one.start, other.stop) for one, other in pairwise(thirds)]

        def values(groups: Sequence[range]) -> list[Value]:
            batches = (rows_of(whole, groups, count) if sliced else None) or [self.batch(group) for group in groups]
            return [self.value(batch, group) for batch, group in zip(batches, groups, strict=True)]

        return kind_of(value, values(thirds), values(pairs), tolerance)

    def gradient(
        self, batches: Sequence[Any], groups: Sequence[Sequence[int]], seed: int = 0
    ) -> tuple[Array, tuple[str, ...]]:
        """The gradient of the batch's loss in training mode, as one vector, and the floating buffers that changed."""
        specs, owners = self._description.parameters, self._description.owners
        arrays = {n: np.zeros(spec.shape, spec.storage) for n, spec in enumerate(specs) if owners[n] is not None}
        into, used = self._adapter.gradient_buffers(arrays), np.zeros(len(specs), np.uint8)
        total, weight, changed = np.zeros(sum(array.size for array in arrays.values())), 0.0, dict[str, None]()
        for batch, group in zip(batches, groups, strict=True):
            self._begin(seed)
            weight += self._adapter.gradient(batch, len(group), into, used).weight
            total += np.concatenate([array.ravel() for array in arrays.values()])
            now = zip(self._description.buffers, self._buffers, self._adapter.live_buffers(), strict=True)
            changed |= {spec.name: None for spec, old, new in now if old.dtype.kind == "f" and (old != new).any()}
        return total / weight, tuple(changed)

    def torn_metrics(
        self, whole: tuple[Any, Sequence[int]], cut: tuple[Sequence[Any], Sequence[Sequence[int]]]
    ) -> tuple[str, ...]:
        """The metric functions whose value on a batch is not that of its parts together; two samples are rounding."""
        names = tuple(self._job.metric_functions)
        at_once = self._measured(*whole).metrics
        parts = [self._measured(batch, group).metrics for batch, group in zip(*cut, strict=True)]
        torn = []
        for name, (total, count), *pieces in zip(names, at_once, *parts, strict=True):
            totals = [sum(piece[which] for piece in pieces) for which in (0, 1)]
            if count and totals[1]:
                one, other = total / count, totals[0] / totals[1]
                if abs(one - other) > max(2 / len(self.indices), GRADIENTS * abs(one)):
                    torn.append(name)
        return tuple(torn)
