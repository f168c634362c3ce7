"""A job's optimizer over a model: how it is cut, its state by parameter, and updaters of chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import keras
import numpy as np

from unisono.frameworks.arrays import aligned_zeros, leave_first
from unisono.frameworks.jobs import kind_by_probe
from unisono.frameworks.keras import optimizers
from unisono.frameworks.keras.backends import BACKEND
from unisono.frameworks.keras.optimizers import Rule
from unisono.frameworks.keras.updates import TILES, Operands, TensorUpdate, Tiles, TileUpdate
from unisono.frameworks.keras.variables import dtype_of, value_of
from unisono.frameworks.protocol import Array, ChunkUpdate, Scratch, States, StateSpec
from unisono.gradients.regions import Kind


class UpdateRules:
    """The optimizer of a job.

    Args:
        optimizer: the job's own, checked.
        trained: number → variable.

    Attributes:
        kind: how the update may be cut.
    """

    def __init__(self, optimizer: Any, trained: Mapping[int, Any]) -> None:
        self._optimizer, self._trained = optimizer, trained
        self.kind: Kind = optimizers.kind_of(optimizer, list(trained.values()))
        self._tiles: dict[int, Tiles] = {}
        self._whole: list[tuple[Rule, list[int]]] = []
        if self.kind == "elementwise":
            self._tiles = self._tiled()
            agreeing = all(agree(tiles, TILES[-1]) for tiles in set(self._tiles.values()))
            self.kind = kind_by_probe(type(optimizer).__name__, agreeing)
        if self.kind != "elementwise":
            groups = [[n] for n in trained] if self.kind == "tensor" else [list(trained)]
            self._whole = [(Rule(optimizer, [stand_in(trained[n]) for n in group]), group) for group in groups]

    def _tiled(self) -> dict[int, Tiles]:
        """Rules for each dtype, with and without weight decay."""
        made: dict[tuple[str, bool], Tiles] = {}
        found: dict[int, Tiles] = {}
        for number, variable in self._trained.items():
            settings = (dtype_of(variable), optimizers.decays(self._optimizer, variable))
            if settings not in made:
                made[settings] = cache(partial(self._tile_rule, variable))
            found[number] = made[settings]
        return found

    def _tile_rule(self, variable: Any, size: int) -> Rule:
        return Rule(self._optimizer, [_tile(variable, size)])

    @property
    def _by_number(self) -> list[tuple[int, Rule, int]]:
        """(parameter's number, rule, its index in that rule)."""
        if self.kind == "elementwise":
            return [(number, tiles(TILES[0]), 0) for number, tiles in self._tiles.items()]
        return [(number, rule, index) for rule, group in self._whole for index, number in enumerate(group)]

    def state(self) -> StateSpec:
        """The optimizer's state as the core lays it out."""
        found, each = self._by_number, self.kind == "elementwise"
        vectors = [
            (key, number, (self._trained[number] if each else rule.slots[place]).shape,
             rule.slots[place].dtype)
            for number, rule, index in found for key, place in rule.vectors[index].items()
        ]  # fmt: skip
        return StateSpec.of(vectors, found[-1][1].scalars)

    def write_first(self, state: States, scalars: Mapping[int, Array]) -> None:
        """Write the state before the first step."""
        for number, rule, index in self._by_number:
            for key, place in rule.vectors[index].items():
                leave_first(rule.first_slots[place], state[number][key])
            row = rule.first_scalars
            scalars[number][: 1 + len(row)] = [1.0, *row]

    def chunk_update(self, scratch: Scratch) -> ChunkUpdate:
        """See `Adapter.chunk_update`."""
        if self.kind == "elementwise":
            return TileUpdate(scratch, self._tiles)
        numbers = {piece.parameter.number for piece in scratch.pieces}
        groups = [(rule, group) for rule, group in self._whole if numbers & set(group)]
        return TensorUpdate(scratch, groups)

    def learning_rate(self, step: int) -> float:
        """The rate of the step after so many."""
        rate = self._optimizer._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(step)
        return float(BACKEND.array(value_of(rate)))


def agree(tiles: Tiles, size: int) -> bool:
    """Whether two steps on a tile of this size give the bits of two steps on the least ones that it is made of."""
    rule = tiles(TILES[0])
    results = []
    for length in (TILES[0], size):
        arrays = [aligned_zeros(size, rule.dtype) for _ in range(2 + len(rule.slots))]
        arrays[0][:] = np.linspace(0.5, 2, size)
        for array, first in zip(arrays[2:], rule.first_slots, strict=True):
            array[:] = first
        row = rule.first_scalars
        for step in range(2):
            arrays[1][:] = np.linspace(-1, 1 + step, size)
            after: Sequence[Any] = ()
            for start in range(0, size, length):
                parameter, gradient, *slots = (array[start : start + length] for array in arrays)
                after = Operands(tiles(length), [parameter], [gradient], slots).step(row)
            row = tiles(length).floats(after)
        results.append(arrays)
    return all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


def stand_in(variable: Any) -> Any:
    """The Keras variable that an optimizer is built on."""
    if isinstance(variable, keras.Variable):
        return variable
    return keras.Variable(value_of(variable), name=variable.name.partition(":")[0].replace("/", "_"))


def _tile(variable: Any, size: int) -> Any:
    """A variable of a tile's length that decays as the given one does."""
    name = variable.name if isinstance(variable, keras.Variable) else stand_in(variable).name
    return keras.Variable(np.zeros(size, dtype_of(variable)), name=name)
