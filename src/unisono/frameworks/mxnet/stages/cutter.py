"""Cuts a model: measures its units, and finds the places where a cut keeps the bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from unisono.errors import UsageError
from unisono.frameworks.arrays import restoring
from unisono.frameworks.cuts import across, costs, stages_of, through
from unisono.frameworks.mxnet import parameters as held
from unisono.frameworks.mxnet.data import as_framework
from unisono.frameworks.mxnet.stages.draws import found_draws
from unisono.frameworks.mxnet.stages.pieces import entered, pieces_of
from unisono.frameworks.mxnet.stages.stage import CutModel, Stage
from unisono.frameworks.mxnet.weights import Weights
from unisono.frameworks.nests import mapped
from unisono.frameworks.protocol import Array, Indices, Measured, Passed, Unit
from unisono.job import Job

if TYPE_CHECKING:
    from unisono.frameworks.mxnet.model import Adapter


class Cutter:
    """A model that can be cut.

    Args:
        job: the job.
        adapter: of its model.

    Raises:
        UsageError: it can't be cut.
    """

    def __init__(self, job: Job, adapter: Adapter) -> None:
        if job.forward is not None:
            raise UsageError(
                "a gluon model is cut between the blocks of a Sequential, which are called one after another; received "
                "job.forward, which calls the model in its own way. Make that a block of the model, or train with "
                "pipeline=1."
            )
        self.adapter, self._pieces = adapter, pieces_of(adapter.model, adapter.weights)

    @property
    def count(self) -> int:
        """The number of units."""
        return len(self._pieces)

    def stage(self, cuts: Indices, index: int, recompute: bool) -> Stage:
        """See `Adapter.stage`."""
        return Stage(self._model, cuts, index, recompute)

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        """See `Adapter.units`."""
        weights, count = self.adapter.weights, self.count
        into, used = self.adapter.gradient_buffers(_zeros(weights)), np.zeros(len(weights.parameters), np.uint8)
        # What was drawn before a unit is not drawn again while it is measured.
        alone = partial(Stage, replace(self._model, draws=(False,) * count, loss_draws=False))
        measured = costs(alone, count, batch, samples, into, used, weights.live, _counted)
        # A cut that parts two uses of the same statistics leaves no stage to keep them.
        buffers = [piece.buffers for piece in self._pieces]
        places = [place for place in range(1, count) if not across(buffers, place)]
        good = set(places)
        for part in _variants(samples):
            good -= _Trial(self, _chosen(batch, part), len(part)).differing(sorted(good))
        units = []
        for place, (piece, cost, draws) in enumerate(zip(self._pieces, measured, self._model.draws, strict=True), 1):
            forward, backward, size, crossing = cost
            kept = size * (2 if draws else 1)  # what has been drawn is kept too
            joined = place < count and place not in good
            units.append(Unit(piece.name, piece.parameters, piece.buffers, forward, backward, kept, crossing, joined))
        return tuple(units)

    @cached_property
    def _model(self) -> CutModel:
        inputs, targets = as_framework(tuple(self.adapter.example()))
        value = entered(inputs)

        def finish(outputs: Any) -> None:
            total, weight = self.adapter.calls.loss(outputs, targets, len(value.arrays[0]))
            self.adapter.calls.measured(total, weight, outputs, targets)

        with restoring(self.adapter.weights.live), self.adapter.weights.computing():
            draws, loss_draws = found_draws(self._pieces, value, finish)
        return CutModel(self.adapter, self._pieces, draws, loss_draws)


def _variants(samples: int) -> list[list[int]]:
    """Samples of a microbatch in other orders and numbers: sums in another order give the same bits by chance, too.

    >>> _variants(4)
    [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [0, 1], [2, 3]]
    """
    numbers, half = list(range(samples)), samples // 2
    orders = [numbers, numbers[::-1], numbers[half:] + numbers[:half], numbers[:half], numbers[half:]]
    return [order for place, order in enumerate(orders) if order and order not in orders[:place]]


def _chosen(batch: Any, samples: list[int]) -> Any:
    """Some samples of a microbatch, from every array in it."""
    return mapped(lambda leaf: leaf[samples] if getattr(leaf, "shape", ()) else leaf, batch)


def _counted(forward: Callable[[], Passed]) -> tuple[Passed, int]:
    """A forward pass of one unit, and the size of what the unit gives."""
    passed = forward()
    return passed, passed.kept.units[0].value.nbytes


def _zeros(weights: Weights) -> dict[int, Array]:
    """Memory for a gradient of each trained parameter."""
    return {number: np.zeros(p.shape, held.dtype_name(p)) for number, p in weights.trained.items()}


class _Trial:
    """Compares the cut model with the uncut one on a microbatch.

    Args:
        cutter: the model.
        batch, samples: the microbatch.
    """

    def __init__(self, cutter: Cutter, batch: Any, samples: int) -> None:
        self._cutter, self._adapter, self._batch, self._samples = cutter, cutter.adapter, batch, samples
        weights = self._adapter.weights
        self._arrays = _zeros(weights)
        self._into = self._adapter.gradient_buffers(self._arrays)
        self._used = np.zeros(len(weights.parameters), np.uint8)
        self._whole = self._bits(lambda: self._adapter.gradient(batch, samples, self._into, self._used))

    def differing(self, places: Sequence[int]) -> set[int]:
        """The units before which a cut gives other bits than the uncut model."""
        if not places or self._bits(partial(self._staged, (0, *places, self._cutter.count))) == self._whole:
            return set()
        half = len(places) // 2
        return self.differing(places[:half]) | self.differing(places[half:]) if half else set(places)

    def _bits(self, compute: Callable[[], Measured]) -> tuple[Any, ...]:
        with restoring(self._adapter.weights.live):
            self._used[...] = 0
            self._adapter.seed(0)
            measured = compute()
            arrays = [*self._arrays.values(), *self._adapter.weights.live]
            return repr(measured), self._used.tobytes(), [blake2b(array.tobytes()).digest() for array in arrays]

    def _staged(self, cuts: Indices) -> Measured:
        def run(forward: Callable[[], Passed]) -> Passed:
            self._adapter.seed(0)
            return forward()

        stages, live = stages_of(self._cutter.stage, cuts), self._adapter.weights.live
        passed, _, _ = through(stages, self._batch, self._samples, self._into, self._used, live, run)
        measured = passed[-1].measured
        assert measured is not None, "the last stage measures"
        return measured
