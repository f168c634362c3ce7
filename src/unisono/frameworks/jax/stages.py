"""A stage of a JAX model: consecutive pieces in one process, and what they hand to the stages beside them.

What crosses after a piece: forward the leaves of its value, then the memory that later pieces need; backward the
gradients of both, then the partial gradients of the parameters that are used on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from unisono.frameworks.arrays import leave
from unisono.frameworks.cuts import owners
from unisono.frameworks.jax.cutcompute import CutCompute, Known, backward, forward
from unisono.frameworks.jax.memory import Shared, host, is_key, typed, untyped
from unisono.frameworks.jax.programs import Places
from unisono.frameworks.jax.purity import explained
from unisono.frameworks.jobs import measured
from unisono.frameworks.protocol import Array, Crossing, Passed


@dataclass(frozen=True)
class Process:
    """What stages need of their process's adapter.

    Attributes:
        compute: the model in pieces.
        example: gives the (inputs, targets) of some microbatch.
        known: () → parameters, memory and key now.
        live: the model's buffers.
    """

    compute: CutCompute
    example: Callable[[], Any]
    known: Callable[[], Known]
    live: Sequence[Shared]


class Stage:
    """See `unisono.frameworks.protocol.Stage`.

    Args:
        process: the process's model.
        cuts, index, recompute: see `Adapter.stage`.
    """

    def __init__(self, process: Process, cuts: tuple[int, ...], index: int, recompute: bool) -> None:
        self._process, self._recompute = process, recompute
        self._start, self._stop = cuts[index], cuts[index + 1]
        known = process.known()
        uses = [program.places.uses for program in process.compute.programs(known, process.example())]
        found = owners([piece.parameters for piece in uses], range(len(known.parameters)))
        self.parameters = tuple(n for n, piece in found.items() if self._start <= piece < self._stop)
        writers = {i: number for number, piece in enumerate(uses) for i in piece.writes}  # the last one of each
        self.buffers = tuple(
            i for i, number in sorted(writers.items())
            if i < process.compute.states and self._start <= number < self._stop
        )  # fmt: skip

    def forward(self, batch: Any, samples: int, received: Crossing) -> Passed:
        """See `Stage.forward`."""
        known = self._process.known()
        programs = self._process.compute.programs(known, batch)[self._start : self._stop]
        leaves, known = self._arrived(programs[0].places, known, batch, received)
        with explained():
            there = forward(programs, known, leaves, batch, samples, self._recompute)
            jax.block_until_ready((there.leaves, there.written, there.measured))
        result = None
        if there.measured is not None:
            total, weight, metrics = there.measured
            result = measured(float(total), float(weight), metrics)
        for index, value in there.written.items():
            if index < len(self._process.live):
                np.copyto(self._process.live[index].array, host(value))
        if result is not None:
            return Passed(there.kept, Crossing(), result)
        memory = (there.memory[index] for index in programs[-1].places.after.memory)
        return Passed(there.kept, _sent(*there.leaves, *memory))

    @staticmethod
    def _arrived(places: Places, known: Known, batch: Any, received: Crossing) -> tuple[list[Any], Known]:
        """The leaves of the value that the first piece is given, and the memory as the stages before have left it."""
        if places.first:
            return jax.tree.leaves(batch[0]), known
        joint, shapes, memory = places.before, jax.tree.leaves(places.value), list(known.memory)
        arrived = _arrived(received, [*shapes, *(memory[index] for index in joint.memory)])
        leaves = [next(arrived) for _ in shapes]
        for index in joint.memory:
            memory[index] = next(arrived)
        return leaves, Known(known.parameters, memory, known.key)

    def backward(
        self, kept: list[Any], received: Crossing, into: Mapping[int, Array], used: Array, add: bool = False
    ) -> Crossing:
        """See `Stage.backward`; as in JAX itself, a parameter that was not used has a gradient of zeros."""
        first, last = (program.places for program, *_ in (kept[0], kept[-1]))
        leaves, flowing, parameters = self._returned(last, received)
        with explained():
            sent = backward(kept, parameters, flowing, leaves)
            jax.block_until_ready((sent, parameters, flowing))
        for number in self.parameters:
            leave(host(parameters[number]) if number in parameters else 0, into[number], add)
            used[number] = 1
        if first.first:
            return Crossing()
        joint = first.before
        return _sent(
            *sent, *(flowing[index] if index in joint.flowing else None for index in joint.memory),
            *(parameters[number] for number in joint.tied),
        )  # fmt: skip

    def _returned(self, places: Places, received: Crossing) -> tuple[list[Any], dict[int, Any], dict[int, Any]]:
        """The gradients of the last piece's leaves, of memory by index, and of parameters by number."""
        if places.last:
            return [], {}, {}
        known, joint, shapes = self._process.known(), places.after, jax.tree.leaves(places.gives)
        arrived = _arrived(received, [
            *shapes, *(known.memory[index] for index in joint.memory),
            *(known.parameters[number] for number in joint.tied),
        ])  # fmt: skip
        leaves = [next(arrived) for _ in shapes]
        flowing = {index: value for index in joint.memory if (value := next(arrived)) is not None}
        return leaves, flowing, {number: next(arrived) for number in joint.tied}


def _sent(*values: Any) -> Crossing:
    """As NumPy's; a dtype that NumPy doesn't know (bfloat16 …) as unsigned words, a typed key as its numbers."""
    arrays = [None if value is None else host(untyped(value)) for value in values]
    plain = [a if a is None or a.dtype.isbuiltin else a.view(f"u{a.dtype.itemsize}") for a in arrays]
    return Crossing(tuple(plain))


def _arrived(received: Crossing, expected: Sequence[Any]) -> Iterator[Any]:
    """The inverse of `_sent`; JAX computes on the shared memory itself where it can.

    Copies are bound to a device, as aliases are: JAX compiles once more for arrays that are not.
    """
    return iter([_like(array, like) for array, like in zip(received.arrays, expected, strict=True)])


def _like(array: Array | None, like: Any) -> Any:
    if array is None or is_key(like):
        return None if array is None else typed(array, like)
    alias = Shared(array).alias if array.dtype == like.dtype else None
    return jax.device_put(array.view(like.dtype), jax.local_devices()[0]) if alias is None else alias
