"""The update of one chunk by MXNet's optimizer, in shared memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mxnet
from mxnet.optimizer import Updater

from unisono.errors import JobError
from unisono.frameworks.mxnet.optimizers import Master, leaves, number_of
from unisono.frameworks.mxnet.parameters import over_legacy
from unisono.frameworks.nests import mapped
from unisono.frameworks.protocol import Array, Scratch


class MxnetChunkUpdate:
    """The optimizer's own update over the pieces of one chunk, through MXNet's `Updater` as `gluon.Trainer` does it.

    Args:
        master: the optimizer.
        scratch: what is updated.
        seed: seeds the generators for a step, for optimizers that draw.
    """

    def __init__(self, master: Master, scratch: Scratch, seed: Callable[[int], None]) -> None:
        self._master, self._seed, pieces = master, seed, scratch.pieces
        self._clone = master.clone()
        self._updater = Updater(self._clone)
        self._numbers = [piece.parameter.number for piece in pieces]
        self._owned = [piece.start == 0 for piece in pieces]
        self._weights, self._gradients = [], []
        for piece in pieces:
            number, place = piece.parameter.number, scratch.place(piece)
            shape = -1 if master.kind == "elementwise" else piece.parameter.shape
            self._weights.append(over_legacy(scratch.parameters[place].reshape(shape)))
            self._gradients.append(over_legacy(scratch.gradients[place].reshape(shape)))
            template = self._clone.create_state(number, self._weights[-1])
            arrays = iter([over_legacy(scratch.state[number][path]) for path, _ in leaves(template)])
            self._updater.states[number] = mapped(lambda leaf: None if leaf is None else next(arrays), template)  # noqa: B023
            self._updater.states_synced[number] = True
        self._beside = master.beside(self._clone)

    def step(self, before: Array, after: Array, used: Array) -> None:
        """See `ChunkUpdate.step`."""
        rows = [before[number].tolist() for number in self._numbers]
        counts = {number: int(row[1]) for number, row in zip(self._numbers, rows, strict=True)}
        self._master.prepare(self._clone, counts)
        if self._master.kind == "whole":
            self._seed(self._master.steps)
        every = range(len(self._numbers))
        for group in [[index] for index in every] if self._master.kind == "tensor" else [list(every)]:
            self._restore_numbers(rows[group[0]])
            self._update([index for index in group if used[self._numbers[index]]])
            for index in group:
                if self._owned[index]:
                    after[self._numbers[index], : len(rows[index])] = self._row(index, rows[index])

    def _update(self, chosen: Sequence[int]) -> None:
        if chosen:
            self._updater(*([held[index] for index in chosen] for held in
                            (self._numbers, self._gradients, self._weights)))  # fmt: skip
            mxnet.nd.waitall()
            self._keep_nothing_beside()

    def _keep_nothing_beside(self) -> None:
        """Look at what the optimizer holds in itself.

        Raises:
            JobError: one of no listed class has changed what nobody keeps.
        """
        found = self._master.beside(self._clone) if self._master.kind == "whole" else self._beside
        for name in sorted(found.keys() | self._beside.keys()):
            if found.get(name) != self._beside.get(name):
                raise JobError(
                    "an optimizer's state is what create_state returns, so that any worker can go on with it; "
                    f"{self._master.name} has changed {name!r} in itself. Move it there, or change it in every step."
                )

    def _restore_numbers(self, row: Sequence[float]) -> None:
        for (name, kind), value in zip(self._master.numbers.items(), row[2:], strict=True):
            setattr(self._clone, name, None if math.isnan(value) else kind(value))

    def _row(self, index: int, row: Sequence[float]) -> list[float]:
        numbers = [number_of(getattr(self._clone, name)) for name in self._master.numbers]
        return [1.0, self._clone._index_update_count.get(self._numbers[index], row[1]), *numbers]
