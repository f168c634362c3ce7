"""Cuts a model: measures its units, and finds the places where a cut keeps the bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from hashlib import blake2b
from typing import Any, NamedTuple

import mxnet
import numpy as np
from mxnet.gluon import Block

from unisono.errors import UsageError
from unisono.frameworks.arrays import restoring
from unisono.frameworks.cuts import across, received, timed
from unisono.frameworks.mxnet import parameters as held
from unisono.frameworks.mxnet.data import as_framework
from unisono.frameworks.mxnet.stages.draws import found_draws
from unisono.frameworks.mxnet.stages.pieces import Recorded, entered, filled, pieces_of, record, record_loss
from unisono.frameworks.mxnet.stages.stage import CutModel, Process, Stage
from unisono.frameworks.protocol import Crossing, Measured, Unit
from unisono.job import Job


class _Cost(NamedTuple):
    """A unit's seconds forward and backward, and the size of what it gives."""

    forward: float
    backward: float
    bytes: int


class Cutter:
    """A model that can be cut.

    Args:
        job, model: the job and its model.
        process: what stages need of the adapter.

    Raises:
        UsageError: it can't be cut.
    """

    def __init__(self, job: Job, model: Block, process: Process) -> None:
        if job.forward is not None:
            raise UsageError(
                "a gluon model is cut between the blocks of a Sequential, which are called one after another; received "
                "job.forward, which calls the model in its own way. Make that a block of the model, or train with "
                "pipeline=1."
            )
        self.process, self._pieces = process, pieces_of(model, process.weights)

    @property
    def count(self) -> int:
        """The number of units."""
        return len(self._pieces)

    def stage(self, cuts: tuple[int, ...], index: int, recompute: bool) -> Stage:
        """See `Adapter.stage`."""
        return Stage(self._model, cuts, index, recompute)

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        """See `Adapter.units`."""
        with restoring(self.process.weights.live):
            costs = self._costs(batch, samples)
        count = self.count
        # A cut that parts two uses of the same statistics leaves no stage to keep them.
        buffers = [piece.buffers for piece in self._pieces]
        places = [place for place in range(1, count) if not across(buffers, place)]
        good = set(places)
        for part in _variants(samples):
            good -= _Trial(self, _chosen(batch, part), len(part)).differing(sorted(good))
        units = []
        for place, piece, cost, draws in zip(range(1, count + 1), self._pieces, costs, self._model.draws, strict=True):
            inner = place < count
            kept = cost.bytes * (2 if draws else 1)  # what has been drawn is kept too
            crossing, joined = cost.bytes if inner else 0, inner and place not in good
            units.append(
                Unit(piece.name, piece.parameters, piece.buffers, cost.forward, cost.backward, kept, crossing, joined)
            )
        return tuple(units)

    def _costs(self, batch: Any, samples: int) -> list[_Cost]:
        inputs, targets = as_framework(tuple(batch))
        value, costs = entered(inputs), []
        with self.process.weights.computing():
            for piece in self._pieces:
                recorded, forward, backward = _timed(partial(record, piece, self.process.weights, value))
                value = recorded.value.passed()
                costs.append(_Cost(forward, backward, value.nbytes))
            last = value
            _, forward, backward = _timed(
                lambda: record_loss(lambda o: self.process.calls.loss(o, targets, samples), last)[0]
            )
        costs[-1] = _Cost(costs[-1].forward + forward, costs[-1].backward + backward, costs[-1].bytes)
        return costs

    @cached_property
    def _model(self) -> CutModel:
        inputs, targets = as_framework(tuple(self.process.example()))
        value = entered(inputs)

        def finish(outputs: Any) -> None:
            total, weight = self.process.calls.loss(outputs, targets, len(value.arrays[0]))
            self.process.calls.measured(total, weight, outputs, targets)

        with restoring(self.process.weights.live), self.process.weights.computing():
            draws, loss_draws = found_draws(self._pieces, value, finish)
        return CutModel(self.process, self._pieces, draws, loss_draws)


def _variants(samples: int) -> list[list[int]]:
    """Samples of a microbatch in other orders and numbers: sums in another order give the same bits by chance, too.

    >>> _variants(4)
    [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [0, 1], [2, 3]]
    """
    numbers, half = list(range(samples)), samples // 2
    orders = [numbers, numbers[::-1], numbers[half:] + numbers[:half], numbers[:half], numbers[half:]]
    return [order for place, order in enumerate(orders) if order and order not in orders[:place]]


def _chosen(value: Any, samples: list[int]) -> Any:
    """Some samples of a microbatch, from every array in it."""
    if isinstance(value, tuple | list):
        return type(value)(_chosen(member, samples) for member in value)
    if isinstance(value, Mapping):
        return {name: _chosen(member, samples) for name, member in value.items()}
    return value[samples] if hasattr(value, "shape") and value.shape else value


def _timed(forward: Callable[[], Recorded]) -> tuple[Recorded, float, float]:
    """A recording, and the seconds of its two passes."""
    mxnet.nd.waitall()
    recorded, up = timed(forward, _finished)
    ones = [filled(1, array.shape, array.dtype) for array in recorded.value.arrays]
    return recorded, up, timed(partial(recorded.backward, ones), _finished)[1]


def _finished(result: Any) -> None:
    mxnet.nd.waitall()


class _Trial:
    """Compares the cut model with the uncut one on a microbatch.

    Args:
        cutter: the model.
        batch, samples: the microbatch.
    """

    def __init__(self, cutter: Cutter, batch: Any, samples: int) -> None:
        self._cutter, self._process, self._batch, self._samples = cutter, cutter.process, batch, samples
        weights = self._process.weights
        self._arrays = {n: np.zeros(p.shape, held.dtype_name(p)) for n, p in weights.trained.items()}
        self._into = self._process.gradient_buffers(self._arrays)
        self._used = np.zeros(len(weights.parameters), np.uint8)
        self._whole = self._bits(lambda: self._process.gradient(batch, samples, self._into, self._used))

    def differing(self, places: Sequence[int]) -> set[int]:
        """The units before which a cut gives other bits than the uncut model."""
        if not places or self._bits(partial(self._staged, (0, *places, self._cutter.count))) == self._whole:
            return set()
        half = len(places) // 2
        return self.differing(places[:half]) | self.differing(places[half:]) if half else set(places)

    def _bits(self, compute: Callable[[], Measured]) -> tuple[Any, ...]:
        with restoring(self._process.weights.live):
            self._used[...] = 0
            self._process.seed(0)
            measured = compute()
            arrays = [*self._arrays.values(), *self._process.weights.live]
            return repr(measured), self._used.tobytes(), [blake2b(array.tobytes()).digest() for array in arrays]

    def _staged(self, cuts: tuple[int, ...]) -> Measured:
        stages = [self._cutter.stage(cuts, index, False) for index in range(len(cuts) - 1)]
        crossing, kept, measured = Crossing(), [], None
        for stage in stages:
            self._process.seed(0)
            passed = stage.forward(self._batch, self._samples, crossing)
            kept.append(passed.kept)
            crossing, measured = received(passed.sent), passed.measured
        crossing = Crossing()
        with restoring(self._process.weights.live):
            for stage, one in zip(reversed(stages), reversed(kept), strict=True):
                crossing = received(stage.backward(one, crossing, self._into, self._used))
        assert measured is not None, "the last stage measures"
        return measured
