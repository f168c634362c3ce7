"""How long a model's units take and how much they keep, measured on one microbatch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from unisono.frameworks.protocol import Unit
from unisono.frameworks.pytorch.passes import Passes
from unisono.frameworks.pytorch.stages.segment import Flowing
from unisono.frameworks.pytorch.stages.stage import StageProgram

REPETITIONS = 3


def measured_units(
    passes: Passes, program: StageProgram, batch: Any, samples: int, names: Sequence[str], uses: Sequence[Any]
) -> tuple[Unit, ...]:
    """Run a program of one segment a unit a few times.

    Args:
        passes: the adapter's.
        program: of the whole model.
        batch, samples: the microbatch.
        names: of the units.
        uses: per unit the parameters and buffers that it uses.
    """
    into = {number: torch.empty_like(passes.parameters[number]) for number in passes.trained}
    forward, backward = np.zeros((2, 1 + REPETITIONS, len(names)))
    kept: list[dict[int, int]] = [{} for _ in names]
    for repetition in range(1 + REPETITIONS):
        flowing, done = Flowing(()), []
        for at, segment in enumerate(program.segments):
            # The hooks cost time: they are there in the first run, which only warms up.
            counting = nullcontext() if repetition else _counting(kept[at])
            began = time.perf_counter()
            with counting:
                done.append(segment.forward(batch, samples, flowing))
            forward[repetition, at] = time.perf_counter() - began
            given = done[-1].given
            flowing = Flowing([t.detach().requires_grad_(t.requires_grad) for t in given.tensors], given.nest)
        if not repetition:
            crosses = [sum(t.numel() * t.element_size() for t in computed.given.tensors) for computed in done]
        gradients: list[torch.Tensor | None] = []
        partial: dict[int, torch.Tensor] = {}
        for at in reversed(range(len(done))):
            began = time.perf_counter()
            gradients = program.segments[at].backward(done[at], gradients, partial, into)
            backward[repetition, at] = time.perf_counter() - began
    own = {parameter.untyped_storage()._cdata for parameter in passes.parameters}
    return tuple(
        Unit(
            name,
            tuple(sorted(uses[at][0])),
            tuple(sorted(uses[at][1])),
            float(np.median(forward[1:, at])),
            float(np.median(backward[1:, at])),
            sum(size for storage, size in kept[at].items() if storage not in own) + crosses[at],
            crosses[at],
        )
        for at, name in enumerate(names)
    )


def _counting(found: dict[int, int]) -> AbstractContextManager[Any]:
    """A block that enters the storages that a forward pass keeps, and their bytes."""

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        found[storage._cdata] = storage.nbytes()
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
