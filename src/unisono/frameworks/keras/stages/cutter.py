"""Where a model can be cut, and its stages."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from unisono.errors import UsageError
from unisono.frameworks.cuts import across, costs, numbered
from unisono.frameworks.keras.stages.program import Program
from unisono.frameworks.keras.stages.spans import Uses, span_of
from unisono.frameworks.keras.stages.stage import Stage
from unisono.frameworks.keras.variables import dtype_of
from unisono.frameworks.protocol import Passed, Unit

if TYPE_CHECKING:
    from unisono.frameworks.keras.model import Adapter


class Cutter:
    """Cuts a model between its operations.

    Args:
        adapter: whose model it is.

    Raises:
        UsageError: it can't be cut.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter, self._program = adapter, Program(adapter.model)
        _refuse_regularizers(adapter.model)
        self._uses: list[Uses] = []
        for first, end in pairwise(self._program.units):
            held = [v for step in self._program.steps[first:end] for v in getattr(step.operation, "variables", ())]
            self._uses.append(
                Uses(numbered(held, adapter.variables.parameters), numbered(held, adapter.variables.buffers))
            )

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        """See `Adapter.units`: each unit is measured as a stage of its own."""
        parameters = self._adapter.variables.parameters
        into = {n: np.empty(parameters[n].shape, dtype_of(parameters[n])) for n in self._adapter.variables.trained}
        used = np.zeros(len(parameters), np.uint8)
        measured = costs(self.stage, len(self._uses), batch, samples, into, used, self._adapter.live, _counted)
        return tuple(
            Unit(
                self._program.steps[self._program.units[index + 1] - 1].name,
                uses.parameters, uses.buffers, *cost, self._joined(index),
            )
            for index, (uses, cost) in enumerate(zip(self._uses, measured, strict=True))
        )  # fmt: skip

    def stage(self, cuts: tuple[int, ...], index: int, recompute: bool) -> Stage:
        """See `Adapter.stage`."""
        span = span_of(self._program, self._uses, self._adapter.variables.trained, cuts, index)
        return Stage(self._adapter, self._program, span, recompute)

    def _joined(self, unit: int) -> bool:
        """Whether the model can't be cut after this unit: a layer used on both sides keeps statistics, which one stage
        must hold, or what would cross is no plain array."""
        crossing = set(self._program.crossing(self._program.units[unit + 1]))
        parted = across([uses.buffers for uses in self._uses], unit + 1)
        return bool(parted) or any(not s.dense and crossing & set(s.gives) for s in self._program.steps)


def _counted(forward: Callable[[], Passed]) -> tuple[Passed, int]:
    passed = forward()
    return passed, passed.kept.bytes


def _refuse_regularizers(model: Any) -> None:
    variables = [v.path for v in model.trainable_variables if getattr(v, "regularizer", None) is not None]
    layers = [layer.name for layer in model._flatten_layers() if layer.activity_regularizer is not None]
    if variables or layers:
        raise UsageError(
            "a model that is cut has one loss, the job's, which its last stage computes; "
            f"{[*layers, *variables][0]!r} adds a regularizer of its own. Give the optimizer a weight_decay instead, "
            "or train with pipeline=1."
        )
