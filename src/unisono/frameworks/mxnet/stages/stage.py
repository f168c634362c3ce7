"""A stage: consecutive blocks in one process, and what they hand to the stages beside them.

Forward cross the arrays of a value, how they are nested, which take a gradient, and the units that have drawn random
numbers. Backward cross the gradients of these arrays, then those of parameters that an earlier stage owns, use by use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import mxnet
from mxnet import autograd

from unisono.frameworks.arrays import restoring
from unisono.frameworks.cuts import owners
from unisono.frameworks.mxnet import parameters as held
from unisono.frameworks.mxnet.data import as_framework
from unisono.frameworks.mxnet.stages.draws import Draw, draw_again, drawn
from unisono.frameworks.mxnet.stages.pieces import Piece, Recorded, Value, entered, filled, marked, record, record_loss
from unisono.frameworks.protocol import Array, Crossing, Passed

if TYPE_CHECKING:
    from unisono.frameworks.mxnet.model import Adapter


@dataclass(frozen=True)
class CutModel:
    """A model in pieces.

    Attributes:
        adapter: whose it is.
        pieces: its blocks.
        draws: which of them draw random numbers.
        loss_draws: whether the loss or the metrics may.
    """

    adapter: Adapter
    pieces: tuple[Piece, ...]
    draws: tuple[bool, ...]
    loss_draws: bool

    @cached_property
    def tied(self) -> set[int]:
        """The parameters that several units use."""
        uses = Counter(number for piece in self.pieces for number in piece.trained)
        return {number for number, count in uses.items() if count > 1}


@dataclass(frozen=True)
class _Kept:
    """A microbatch between its two passes: per unit its recording, or what it took; and the loss's recording."""

    units: list[Recorded | Value]
    loss: Recorded | None


@dataclass(frozen=True)
class _Before:
    """What a forward pass begins with: the generators' seed, the buffers, and what earlier stages have drawn."""

    seed: int
    buffers: Sequence[Array]
    draws: Sequence[Draw]


class Stage:
    """See `unisono.frameworks.protocol.Stage`.

    Args:
        model: the model.
        cuts, index, recompute: see `Adapter.stage`.
    """

    def __init__(self, model: CutModel, cuts: tuple[int, ...], index: int, recompute: bool) -> None:
        self._model, self._adapter, self._recompute = model, model.adapter, recompute
        self._start, self._stop = cuts[index], cuts[index + 1]
        self._pieces = model.pieces[self._start : self._stop]
        self._last = self._stop == len(model.pieces)
        self._catches_up = any(model.draws[self._start : self._stop]) or (self._last and model.loss_draws)
        first = owners([piece.trained for piece in model.pieces], model.adapter.weights.trained)
        self.parameters = tuple(n for n, piece in first.items() if self._start <= piece < self._stop)
        self.buffers = tuple(sorted({b for piece in self._pieces for b in piece.buffers}))

    # -- forward -------------------------------------------------------------------------------------------

    def forward(self, batch: Any, samples: int, received: Crossing) -> Passed:
        """See `Stage.forward`."""
        inputs, targets = batch
        value, draws = (entered(as_framework(inputs)), []) if self._start == 0 else _arrived(received)
        before = _Before(self._adapter.seeded, [array.copy() for array in self._adapter.weights.live], draws)
        units: list[Recorded | Value] = []
        moving: list[tuple[int, Value, Recorded]] = []
        with self._adapter.weights.computing():
            if self._catches_up:
                self._draw_again(before)
            for index, piece in enumerate(self._pieces, self._start):
                draws = [*draws, drawn(index, value)] if self._model.draws[index] else draws
                recorded = record(piece, self._adapter.weights, value)
                units.append(value if self._recompute and not self._model.draws[index] else recorded)
                if piece.buffers or self._model.draws[index]:
                    moving.append((index, value, recorded))
                value = recorded.value.passed()
            if not self._last:
                self._move_buffers(before, moving)
                return Passed(_Kept(units, None), _sent(value, draws))
            targets = as_framework(targets)
            loss, weight = record_loss(lambda outputs: self._adapter.calls.loss(outputs, targets, samples), value)
        outputs = value.built(value.arrays)
        measured = self._adapter.calls.measured(loss.value.arrays[0], weight, outputs, targets)
        with self._adapter.weights.computing():
            self._move_buffers(before, moving)
        return Passed(_Kept(units, loss), Crossing(), measured)

    def _draw_again(self, before: _Before) -> None:
        """Move the generators to where the stages before have left theirs."""
        self._adapter.seed(before.seed)  # another stage may have drawn in this process since
        with restoring(self._adapter.weights.live):  # a block may keep statistics of what it sees
            draw_again(self._model.pieces, before.draws)

    def _move_buffers(self, before: _Before, units: Sequence[tuple[int, Value, Recorded]]) -> None:
        """Let BatchNorm move its running statistics, which it does in its backward pass.

        MXNet's Dropout goes backward once only (then it lets everything through), and that is for the gradient. So a
        block with both is run again, with the same random numbers, to go backward from there.

        Args:
            before: what this forward pass began with.
            units: those that have buffers or draw: index, what it took, its recording.
        """
        weights, pieces, draws = self._adapter.weights, self._model.pieces, self._model.draws
        again = {buffer for index, *_ in units if draws[index] for buffer in pieces[index].buffers}
        if again:
            for buffer in again:
                weights.live[buffer][...] = before.buffers[buffer]
            self._draw_again(before)
        moving = []
        for index, value, recorded in units:
            anew = record(pieces[index], weights, value) if again and draws[index] else recorded
            if pieces[index].buffers:
                moving.append(anew)
        for recorded in reversed(moving):  # in the order of the uncut backward pass, for a block used twice
            recorded.move_buffers()

    # -- backward ------------------------------------------------------------------------------------------

    def backward(self, kept: _Kept, received: Crossing, into: Any, used: Array, add: bool = False) -> Crossing:
        """See `Stage.backward`; MXNet writes gradients into their places itself, and never adds."""
        uses: dict[int, list[Any]] = {}
        if kept.loss is not None:
            total = kept.loss.value.arrays[0]
            gradients, _ = kept.loss.backward([filled(1, total.shape, total.dtype)])
        else:
            gradients, uses = _returned(received)
        places = dict(zip(self._adapter.weights.trained, into, strict=True))
        reached = set()
        with self._adapter.weights.computing():
            for piece in reversed(self._pieces):
                unit = kept.units.pop()  # its memory is free for the units before it
                recorded = record(piece, self._adapter.weights, unit) if isinstance(unit, Value) else unit
                gradients, found = recorded.backward(gradients)
                for number, gradient in found.items():
                    if number in self._model.tied:
                        uses.setdefault(number, []).append(gradient)
                    else:
                        gradient.copyto(places[number][1])
                        reached.add(number)
        for number in self.parameters:
            array, destination = places[number]
            if number in uses:
                _add(uses.pop(number), destination)
            elif number not in reached:
                array[...] = 0
                continue
            used[number] = 1
        mxnet.nd.waitall()
        return _sent_back(gradients, uses) if self._start else Crossing()


def _add(uses: Sequence[Any], into: Any) -> None:
    """Add the gradients of a parameter's uses, later ones first, as MXNet's backward pass adds them in an uncut model:
    it is MXNet's backward pass that does so here, of as many uses that hand their gradient on as it is."""
    if len(uses) == 1:
        uses[0].copyto(into)
        return
    shared = marked(uses[0], into)
    with autograd.record():
        copies = [shared.handle.copy() for _ in uses]
    autograd.backward(copies, list(reversed(uses)))


# -- what crosses ------------------------------------------------------------------------------------------


def _sent(value: Value, draws: Sequence[Draw]) -> Crossing:
    plain = {"form": value.form, "recorded": list(value.recorded), "draws": list(draws)}
    return Crossing(tuple(array.asnumpy() for array in value.arrays), plain)


def _arrived(received: Crossing) -> tuple[Value, list[Draw]]:
    plain = received.plain
    return Value([_over(array) for array in received.arrays], plain["form"], plain["recorded"]), plain["draws"]


def _sent_back(gradients: Sequence[Any], uses: Mapping[int, Sequence[Any]]) -> Crossing:
    arrays = [*gradients, *(gradient for found in uses.values() for gradient in found)]
    counts = [[number, len(found)] for number, found in uses.items()]
    return Crossing(tuple(None if array is None else array.asnumpy() for array in arrays), {"uses": counts})


def _returned(received: Crossing) -> tuple[list[Any], dict[int, list[Any]]]:
    counts = received.plain["uses"]
    arrays = [_over(array) for array in received.arrays]
    start = len(arrays) - sum(count for _, count in counts)
    gradients, rest = arrays[:start], iter(arrays[start:])
    return gradients, {number: [next(rest) for _ in range(count)] for number, count in counts}


def _over(array: Array | None) -> Any:
    """MXNet's array over what was received."""
    return None if array is None else held.over(array)
