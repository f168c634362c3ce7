"""One stage in one process: see `unisono.frameworks.protocol.Stage`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from unisono.frameworks.arrays import leave
from unisono.frameworks.protocol import Array, Crossing, Indices, Passed
from unisono.frameworks.pytorch.passes import Passes
from unisono.frameworks.pytorch.stages import generators
from unisono.frameworks.pytorch.stages.segment import Computed, Flowing, Segment
from unisono.frameworks.pytorch.stages.travel import as_array, as_tensor, kinds_of


@dataclass(frozen=True)
class StageProgram:
    """A stage for microbatches of one signature.

    Attributes:
        segments: computed one after another.
        received: dtype and need of a gradient of each tensor that it starts with; None: the nest says.
        drawn_before, drawn_after: generators that have moved before it, and before the next one.
        borrowed, lent: the numbers of earlier stages' parameters that it or a later one uses, and of its own or
            earlier ones' that a later one uses.
    """

    segments: tuple[Segment, ...]
    received: tuple[tuple[torch.dtype, bool], ...] | None
    drawn_before: tuple[str, ...]
    drawn_after: tuple[str, ...]
    borrowed: Indices
    lent: Indices


@dataclass
class _Done:
    """A segment's forward pass: its values, or what they are computed again from."""

    computed: Computed | None
    start: Flowing
    states: tuple[Array, ...]


@dataclass
class _Kept:
    program: StageProgram
    batch: Any
    samples: int
    done: list[_Done]


@dataclass(eq=False)
class TorchStage:
    """See `unisono.frameworks.protocol.Stage`.

    Args:
        passes: the adapter's.
        program: (inputs) → the program for their shapes.
        parameters, buffers: that belong to the stage.
        recompute: see `Adapter.stage`.
    """

    passes: Passes
    program: Callable[[Any], StageProgram]
    parameters: Indices
    buffers: Indices
    recompute: bool

    def forward(self, batch: Any, samples: int, received: Crossing) -> Passed:
        """See `Stage.forward`."""
        self.passes.modes.train()
        program = self.program(batch[0])
        flowing = self._enter(program, received)
        kept = _Kept(program, batch, samples, [])
        computed = Computed([], flowing)
        for segment in program.segments:
            states: tuple[Array, ...] = ()
            if self.recompute and (segment.draws or segment.last):
                states = generators.save()
            computed = segment.forward(batch, samples, flowing)
            kept.done.append(_Done(None if self.recompute else computed, flowing, states))
            flowing = computed.given
            if self.recompute:  # without the graph that led there
                tensors = [t.detach().requires_grad_(t.requires_grad) for t in flowing.tensors]
                flowing = Flowing(tensors, flowing.nest)
        if computed.measured is not None:
            return Passed(kept, Crossing(), computed.measured)
        arrays = [as_array(tensor) for tensor in flowing.tensors]
        return Passed(kept, Crossing((*arrays, *generators.save(program.drawn_after)), flowing.nest))

    def _enter(self, program: StageProgram, received: Crossing) -> Flowing:
        count = len(received.arrays) - len(program.drawn_before)
        if program.drawn_before:
            generators.load(received.arrays[count:], program.drawn_before)
        kinds = program.received
        if kinds is None:
            kinds = tuple(kinds_of(received.plain)) if received.plain is not None else ()
        tensors = []
        for array, (dtype, needs) in zip(received.arrays[:count], kinds, strict=True):
            assert array is not None
            tensor = as_tensor(array, dtype)
            tensors.append(tensor.requires_grad_() if needs else tensor)
        return Flowing(tensors, received.plain)

    def backward(self, kept: _Kept, received: Crossing, into: Any, used: Array, add: bool = False) -> Crossing:
        """See `Stage.backward`."""
        program, done = kept.program, kept.done
        split = len(received.arrays) - len(program.lent)
        given, parts = received.arrays[:split], zip(program.lent, received.arrays[split:], strict=True)
        partial = {
            number: as_tensor(array, self.passes.parameters[number].dtype)
            for number, array in parts if array is not None
        }  # fmt: skip
        gradients: list[torch.Tensor | None] | None = None
        owned_used = []
        while done:
            segment, step = program.segments[len(done) - 1], done.pop()
            computed = step.computed
            if computed is None:
                if step.states:
                    generators.load(step.states)
                computed = segment.forward(kept.batch, kept.samples, step.start)
            if gradients is None:
                needing = [tensor for tensor in computed.given.tensors if tensor.requires_grad]
                gradients = [
                    None if array is None else as_tensor(array, tensor.dtype)
                    for tensor, array in zip(needing, given, strict=True)
                ]
            gradients = segment.backward(computed, gradients, partial, into, add)
            owned_used += [number for number in segment.owned if self.passes.used[number]]
        used[owned_used] = 1
        for number in set(self.parameters).difference(owned_used):
            leave(0, into[number].numpy(), add)
        sent = (*(gradients or ()), *map(partial.get, program.borrowed))
        return Crossing(tuple(None if gradient is None else as_array(gradient) for gradient in sent))
