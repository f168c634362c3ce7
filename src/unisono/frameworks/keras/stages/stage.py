"""One stage in one process: see `unisono.frameworks.protocol.Stage`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from unisono.frameworks.arrays import leave_or_nothing
from unisono.frameworks.keras.backends import BACKEND
from unisono.frameworks.keras.backends.graphs import present
from unisono.frameworks.keras.stages.halves import Halves
from unisono.frameworks.keras.stages.program import Program
from unisono.frameworks.keras.stages.spans import Span
from unisono.frameworks.keras.stages.tracing import traced
from unisono.frameworks.protocol import Array, Crossing, Passed

if TYPE_CHECKING:
    from unisono.frameworks.keras.model import Adapter


@dataclass(frozen=True)
class Kept:
    """One microbatch between its passes: the functions for its shape, what was given, and what the backward half needs
    (None where that is computed again)."""

    halves: Halves
    given: list[Any]
    between: list[Any] | None

    @property
    def bytes(self) -> int:
        """What is kept besides what others hold anyway."""
        return sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in self.between or ())


class Stage:
    """See `unisono.frameworks.protocol.Stage`.

    What crosses forward is the values, their masks, and the states of the generators that have moved; backward, the
    gradients of the values and the parts of those of earlier stages' parameters.

    Args:
        adapter: whose model it is.
        program: the model.
        span: which part of it.
        recompute: see `Adapter.stage`.
    """

    def __init__(self, adapter: Adapter, program: Program, span: Span, recompute: bool) -> None:
        self.parameters, self.buffers = span.owned, span.buffers
        self._adapter, self._span, self._recompute = adapter, span, recompute
        self._trace = partial(traced, adapter, program, span)
        self._halves: dict[Any, Halves] = {}

    def forward(self, batch: Any, samples: int, received: Crossing) -> Passed:
        """See `Stage.forward`."""
        given = self._given(batch, samples, received)
        halves = self._of_shape(given, tuple((received.plain or {}).get("dtypes", ())))
        tensors = present(given)
        result, between = halves.forward(tensors)
        for index, new in zip(self.buffers, result["buffers"], strict=True):
            if new is not None:
                np.copyto(self._adapter.live[index], BACKEND.array(new))
        kept = Kept(halves, tensors, None if self._recompute else between)
        if self._span.last:
            total, weight, outputs = result["measured"]
            return Passed(kept, Crossing(), self._adapter.measured(total, weight, outputs, given["targets"]))
        moved = {**self._moved(received), **{n: s for n, s in enumerate(result["seeds"]) if s is not None}}
        sent = [*result["values"], *result["masks"], *moved.values()]
        arrays = tuple(None if tensor is None else BACKEND.array(tensor) for tensor in sent)
        return Passed(kept, Crossing(arrays, {"dtypes": halves.dtypes, "seeds": list(moved)}))

    def backward(self, kept: Kept, received: Crossing, into: Any, used: Array, add: bool = False) -> Crossing:
        """See `Stage.backward`."""
        span, count = self._span, len(self._span.sent)
        parts = dict(zip(span.carried_next, received.arrays[count:], strict=True)) if received.arrays else {}
        own = {n: self._tensor(parts[n]) for n in span.added_to if parts[n] is not None}
        outer = [self._tensor(array) for array in received.arrays[:count]]
        parameters, values = kept.halves.backward(kept.given, kept.between, outer, own)
        array = BACKEND.array
        found = {**parts, **{n: array(gradient) for n, gradient in parameters.items()}}
        for number in self.parameters:
            leave_or_nothing(found.get(number), number, into, used, add)
        if span.first:
            return Crossing()
        upward = [array(values[n]) if n in values else None for n in range(len(span.received))]
        return Crossing((*upward, *(found.get(n) for n in span.carried_here)))

    def _given(self, batch: Any, samples: int, received: Crossing) -> dict[str, Any]:
        """What the stage computes from."""
        span = self._span
        parameters, buffers, seeds = self._adapter.values()
        inputs, targets = self._adapter.tensors(batch)
        moved, count = self._moved(received), len(span.received)
        return {
            "parameters": [parameters[n] for n in span.uses],
            "buffers": [buffers[n] for n in span.buffers],
            "seeds": [moved.get(n, state) for n, state in enumerate(seeds)],
            "inputs": inputs,
            "targets": targets if span.last else None,
            "samples": self._adapter.count(samples) if span.last else None,
            "values": [self._tensor(array) for array in received.arrays[:count]],
            "masks": [self._tensor(array) for array in received.arrays[count : 2 * count]],
        }

    def _moved(self, received: Crossing) -> dict[int, Any]:
        """The states of the generators that earlier stages have moved, by number."""
        states = received.arrays[2 * len(self._span.received) :]
        return {n: self._tensor(s) for n, s in zip((received.plain or {}).get("seeds", ()), states, strict=True)}

    def _tensor(self, array: Array | None) -> Any:
        """A tensor over what was received, which nobody writes until the round is over."""
        if array is None:
            return None
        plain = array.dtype.kind == "f" and array.size and array.flags.c_contiguous and array.flags.writeable
        shareable = plain and array.ctypes.data % 64 == 0
        return BACKEND.alias(array) if shareable else BACKEND.tensor(np.array(array))

    def _of_shape(self, given: Mapping[str, Any], dtypes: tuple[str, ...]) -> Halves:
        """The functions for microbatches of this shape."""
        shapes = tuple(None if leaf is None else (leaf.shape, leaf.dtype) for leaf in tf.nest.flatten(given))
        if (shapes, dtypes) not in self._halves:
            self._halves[shapes, dtypes] = Halves(
                lambda tensors: self._trace(tensors, dtypes), given, self._span.added_to, BACKEND.compiled
            )
        return self._halves[shapes, dtypes]
