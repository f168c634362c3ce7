"""How long a model's units take and how much they keep, measured on one microbatch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from unisono.frameworks.protocol import Unit
from unisono.frameworks.pytorch.passes import Passes
from unisono.frameworks.pytorch.stages.segment import Computed, Flowing
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
    forward: list[list[float]] = [[] for _ in names]
    backward: list[list[float]] = [[] for _ in names]
    for repetition in range(1 + REPETITIONS):
        flowing, done = Flowing(()), []
        keeps: list[dict[int, int]] = []
        for at, segment in enumerate(program.segments):
            keeps.append({})
            # The hooks cost time: they are there in the first run, which only warms up.
            began = time.perf_counter()
            computed = (
                _counted(keeps[at], segment, batch, samples, flowing)
                if not repetition
                else segment.forward(batch, samples, flowing)
            )
            forward[at].append(time.perf_counter() - began)
            done.append(computed)
            tensors = [t.detach().requires_grad_(t.requires_grad) for t in computed.given.tensors]
            flowing = Flowing(tensors, computed.given.nest)
        if not repetition:
            own = {passes.parameters[number].untyped_storage()._cdata for number in range(len(passes.parameters))}
            kept = [sum(size for storage, size in found.items() if storage not in own) for found in keeps]
            crosses = [sum(t.numel() * t.element_size() for t in computed.given.tensors) for computed in done]
        gradients: list[torch.Tensor | None] = []
        partial: dict[int, torch.Tensor] = {}
        for at in reversed(range(len(done))):
            began = time.perf_counter()
            gradients = program.segments[at].backward(done[at], gradients, partial, into)
            backward[at].append(time.perf_counter() - began)
    return tuple(
        Unit(
            name,
            tuple(sorted(uses[at][0])),
            tuple(sorted(uses[at][1])),
            statistics.median(forward[at][1:]),
            statistics.median(backward[at][1:]),
            kept[at] + crosses[at],
            crosses[at],
        )
        for at, name in enumerate(names)
    )


def _counted(found: dict[int, int], segment: Any, batch: Any, samples: int, flowing: Flowing) -> Computed:
    """A forward pass; enters the storages that it keeps and their bytes."""

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        found[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        computed: Computed = segment.forward(batch, samples, flowing)
    return computed
