"""Optimizers over the whole model in a replica: stepped as in the host's memory, in memory of its process alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from unisono.frameworks.protocol import Array, Scratch, Values
from unisono.frameworks.pytorch.whole import WholeOptimizer
from unisono.frameworks.pytorch.whole_update import WholeUpdate
from unisono.gradients.regions import Chunk, Piece, Region
from unisono.memory.segment import Segment, SegmentLayout
from unisono.memory.versions import Versions

_NO_NUMBERS = np.zeros(0)
"""Such an optimizer's numbers are in its tree."""


class Whole:
    """One of them.

    Args:
        whole: it.
        index: its number among the job's optimizers.
        region: of its parameters.
        vectors: their values, and where the gradient of a step will lie.
        parameters: the model's, by number.
        averaged: by number where they lie that are evaluated instead.
        begin: see `WholeUpdate`.
    """

    def __init__(
        self, whole: WholeOptimizer, index: int, region: Region, vectors: tuple[Tensor, Tensor],
        parameters: Sequence[nn.Parameter], averaged: Mapping[int, Tensor], begin: Callable[[], int],
    ) -> None:  # fmt: skip
        pieces = tuple(Piece(parameter, 0, parameter.size) for parameter in region.parameters)
        self._whole, self._index = whole, index
        values, gradients = (vector.numpy() for vector in vectors)
        scratch = Scratch(region, Chunk(0, pieces, 0), values, gradients, {})
        self._update = WholeUpdate(whole, scratch, parameters, averaged, begin)
        self._versions: Versions | None = None

    def load(self, values: Values, updates: int) -> None:
        """See `Replica.load`."""
        tree = values.trees[self._index]
        if self._versions is None:
            layout = SegmentLayout()
            for parity, area in enumerate(tree.areas):
                layout.add(f"{parity}", "uint8", area.shape)
            segment = Segment.create(layout)
            self._versions = self._whole.versions = Versions([segment["0"], segment["1"]], tree.what)
            segment.close()
        self._versions.write(updates, *tree.read(updates))
        self._whole.let_go()

    def store(self, values: Values, updates: int) -> None:
        """See `Replica.store`."""
        assert self._versions is not None
        values.trees[self._index].write(updates, *self._versions.read(updates))

    def repeat(self, updates: int) -> None:
        """A step that changes nothing."""
        assert self._versions is not None
        self._versions.repeat(updates)

    def step(self, used: Array) -> None:
        """One step, with the gradients of those parameters that have one."""
        self._update.step(_NO_NUMBERS, _NO_NUMBERS, used)
