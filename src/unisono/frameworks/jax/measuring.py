"""The pieces of a JAX model, measured on a microbatch."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from unisono.frameworks.cuts import timed
from unisono.frameworks.jax.cutcompute import Pieces, Traced
from unisono.frameworks.jax.memory import is_key
from unisono.frameworks.jax.purity import explained
from unisono.frameworks.jax.stages import Process
from unisono.frameworks.protocol import Unit


def units(process: Process, batch: Any, samples: int) -> tuple[Unit, ...]:
    """See `Adapter.units`."""
    known, compute = process.known(), process.compute
    traced = compute.traced(known, batch)
    leaves, memory = jax.tree.leaves(batch[0]), list(known.memory)
    forward, kept = [], []
    with explained():
        for program in traced.programs:
            given = program.given(known.parameters, memory, leaves, known.key, batch[1], np.float32(samples))
            (gave, residuals), seconds = timed(partial(program.forward, given), jax.block_until_ready)
            forward.append(seconds)
            kept.append(residuals)
            leaves = gave.leaves
            for index, value in gave.memory.items():
                memory[index] = value
        backward = _backward_seconds(traced, kept)
    found = []
    for number, (piece, used) in enumerate(zip(compute.pieces, traced.uses, strict=True)):
        crossing = jax.tree.leaves(traced.gives[number]) + [memory[index] for index in traced.joints[number].memory]
        buffers = sorted(index for index in {*used.reads, *used.writes} if index < compute.states)
        parameters = {id(known.parameters[n]) for n in used.parameters}
        found.append(
            Unit(
                piece.name, used.parameters, tuple(buffers), forward[number], backward[number],
                sum(leaf.nbytes for leaf in jax.tree.leaves(kept[number]) if id(leaf) not in parameters),
                sum(_bytes(leaf) for leaf in crossing),
                any(map(is_key, crossing)),
            )
        )  # fmt: skip
    return tuple(found)


def _backward_seconds(traced: Traced, kept: list[Any]) -> list[float]:
    """Of each piece, the last one's first."""
    gradients, flowing, leaves, seconds = dict[int, Any](), dict[int, Any](), list[Any](), list[float]()
    for program, residuals in zip(reversed(traced.programs), reversed(kept), strict=True):
        one = [(program, None, residuals)]

        def backward(one: Any = one, before: Any = (dict(gradients), dict(flowing), leaves)) -> Any:
            after = dict(before[0]), dict(before[1])
            return *after, Pieces.backward(one, *after, before[2])

        (gradients, flowing, leaves), taken = timed(backward, jax.block_until_ready)
        seconds.append(taken)
    return seconds[::-1]


def _bytes(leaf: Any) -> int:
    return int(np.prod(leaf.shape, dtype=np.int64)) * int(leaf.dtype.itemsize)
