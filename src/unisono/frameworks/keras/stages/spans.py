"""Which part of a cut model a stage is: its steps, and the variables that are its own or pass through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from unisono.frameworks.cuts import across, owners
from unisono.frameworks.keras.stages.program import Program, Step
from unisono.frameworks.protocol import Indices


@dataclass(frozen=True)
class Uses:
    """The numbers of the parameters and of the buffers that a piece of the model uses."""

    parameters: Indices
    buffers: Indices


@dataclass(frozen=True)
class Span:
    """A stage's part of the model.

    Attributes:
        first, last: whether it is the first or the last stage.
        steps: its operations.
        received, sent: the values that cross before and after it.
        uses: the parameters that it uses.
        trained: the trained ones among them.
        buffers: the buffers that it uses.
        owned: the trained parameters whose gradients it leaves.
        carried_here, carried_next: parameters of earlier stages, and of its own or earlier ones, whose gradients are
            not complete here, or in the next stage.
    """

    first: bool
    last: bool
    steps: Sequence[Step]
    received: Indices
    sent: Indices
    uses: Indices
    trained: Indices
    buffers: Indices
    owned: Indices
    carried_here: Indices
    carried_next: Indices

    @property
    def added_to(self) -> Indices:
        """Parameters that it uses, and later stages too."""
        return tuple(n for n in self.carried_next if n in self.trained)


def span_of(program: Program, uses: Sequence[Uses], trained: Sequence[int], cuts: Indices, index: int) -> Span:
    """A stage's part of the model.

    Args:
        program: the model.
        uses: per unit what it uses.
        trained: the numbers of the trained parameters.
        cuts, index: see `Adapter.stage`.
    """
    parameters = [frozenset[int]().union(*(u.parameters for u in uses[a:b])) for a, b in pairwise(cuts)]
    buffers = frozenset[int]().union(*(u.buffers for u in uses[cuts[index] : cuts[index + 1]]))
    here, further = (tuple(sorted(across(parameters, place).intersection(trained))) for place in (index, index + 1))
    start, end = program.units[cuts[index]], program.units[cuts[index + 1]]
    return Span(
        first=index == 0,
        last=index == len(cuts) - 2,
        steps=program.steps[start:end],
        received=program.crossing(start),
        sent=program.crossing(end),
        uses=tuple(sorted(parameters[index])),
        trained=tuple(sorted(parameters[index].intersection(trained))),
        buffers=tuple(sorted(buffers)),
        owned=tuple(n for n, stage in owners(parameters, trained).items() if stage == index),
        carried_here=here,
        carried_next=further,
    )
