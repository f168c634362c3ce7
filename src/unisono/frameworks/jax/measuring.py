"""The pieces of a JAX model, measured on a microbatch, and its stages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from unisono.frameworks.cuts import costs
from unisono.frameworks.jax.memory import is_key
from unisono.frameworks.jax.stages import Process, Stage
from unisono.frameworks.protocol import Passed, Unit


class Cutter:
    """Cuts a model between its pieces.

    Args:
        process: the process's model.
    """

    def __init__(self, process: Process) -> None:
        self._process, self.stage = process, partial(Stage, process)

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        """See `Adapter.units`."""
        known, compute = self._process.known(), self._process.compute
        programs = compute.programs(known, batch)
        into = {number: np.empty(leaf.shape, leaf.dtype) for number, leaf in enumerate(known.parameters)}
        parameters = set(map(id, known.parameters))

        def counted(forward: Callable[[], Passed]) -> tuple[Passed, int]:
            passed = forward()
            residuals = jax.tree.leaves([residuals for *_, residuals in passed.kept])
            return passed, sum(leaf.nbytes for leaf in residuals if id(leaf) not in parameters)

        live, used = [shared.array for shared in self._process.live], np.zeros(len(into), np.uint8)
        measured = costs(self.stage, len(compute.pieces), batch, samples, into, used, live, counted)
        found = []
        for piece, program, cost in zip(compute.pieces, programs, measured, strict=True):
            uses, crossing = program.places.uses, jax.tree.leaves(program.places.gives)
            crossing += [known.memory[index] for index in program.places.after.memory]
            buffers = sorted(index for index in {*uses.reads, *uses.writes} if index < compute.states)
            found.append(Unit(piece.name, uses.parameters, tuple(buffers), *cost, any(map(is_key, crossing))))
        return tuple(found)
