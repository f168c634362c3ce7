"""A model cut into stages: optional, for frameworks whose models can be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from unisono.errors import UsageError
from unisono.frameworks.protocol.measured import Measured
from unisono.values.arrays import Array

Indices = tuple[int, ...]
"""Which units, parameters, buffers or values, by number."""


@dataclass(frozen=True)
class Unit:
    """The smallest piece that a model is cut into: consecutive operations, in program order.

    Attributes:
        name: where it lies in the model ("layers.3").
        parameters: the numbers of the parameters that it uses.
        buffers: the indices of the buffers that it uses.
        forward_seconds, backward_seconds: measured on one microbatch.
        activation_bytes: what its forward pass keeps for its backward pass, for one microbatch.
        crossing_bytes: what would cross forward if the model were cut after it, for one microbatch.
        joined: the model cannot be cut after it.
    """

    name: str
    parameters: Indices
    buffers: Indices
    forward_seconds: float
    backward_seconds: float
    activation_bytes: int
    crossing_bytes: int
    joined: bool = False


@dataclass(frozen=True)
class Crossing:
    """What one stage hands to a neighbour for one microbatch: activations forward, their gradients backward.

    Attributes:
        arrays: NumPy arrays with any strides (bfloat16 as uint16); None for a gradient that there is not. What is
            received is a view of shared memory, 64-byte aligned, with the strides it was sent with; nobody writes it.
        plain: whatever else JSON can hold.
    """

    arrays: tuple[Array | None, ...] = ()
    plain: Any = None


@dataclass(frozen=True)
class Passed:
    """What a stage's forward pass gives for one microbatch.

    Attributes:
        kept: what its backward pass needs.
        sent: what the next stage receives; nothing from the last one.
        measured: the last stage's: loss, weight and metrics.
    """

    kept: Any
    sent: Crossing
    measured: Measured | None = None


class Stage(Protocol):
    """Consecutive units of a cut model, in one process; any number of microbatches may be on their way through it.

    `kept` of the forward pass goes to the backward pass of the same microbatch, in the order of the forward passes.
    A parameter that several stages use belongs to the first of them: the others send their part of its gradient
    up, last stage's first, and each stage adds its own uses to what it received, later uses first, as the uncut
    model does.
    """

    parameters: Indices
    """The trained parameters that belong to it: those whose gradients its backward pass leaves."""

    buffers: Indices
    """The buffers that its forward pass may change."""

    def forward(self, batch: Any, samples: int, received: Crossing) -> Passed:
        """The forward pass of one microbatch in training mode; generators are seeded and buffers loaded before.

        Where generators have moved, their states travel with the activations, and are what a later stage begins with.

        Args:
            batch: the microbatch's (inputs, targets), the same in every stage.
            samples: its number of samples.
            received: what the stage before has sent; nothing in the first one.
        """

    def backward(self, kept: Any, received: Crossing, into: Any, used: Array, add: bool = False) -> Crossing:
        """The backward pass; returns what the stage before receives (nothing from the first one).

        Args:
            kept: what the forward pass kept.
            received: what the next stage has sent; nothing in the last one.
            into: gradient buffers of `Adapter.gradient_buffers`; those of the stage's parameters are written.
            used: set where one of the stage's parameters had a gradient.
            add: see `Adapter.gradient`.
        """


class Cutter(Protocol):
    """What cuts a model."""

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        """Cut the model as finely as it can be, and measure the pieces on a microbatch.

        Raises:
            UsageError: it can't be cut; names the operation that prevents it.
        """

    def stage(self, cuts: Indices, index: int, recompute: bool) -> Stage:
        """One stage of the model cut into units.

        Args:
            cuts: stage i is made of units cuts[i] … cuts[i + 1] − 1.
            index: which stage.
            recompute: keep only what crosses between the stage's units, and compute the rest again going backward.
        """


class Stages(Protocol):
    """A job's model in pieces, in one process."""

    @cached_property
    def cutter(self) -> Cutter:
        """What cuts it.

        Raises:
            UsageError: it can't be cut.
        """
        raise UsageError(
            f"a model is cut into stages by its framework's adapter; {type(self).__module__} cuts none. Train with "
            "pipeline=1."
        )

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        """See `Cutter.units`."""
        return self.cutter.units(batch, samples)

    def stage(self, cuts: Indices, index: int, recompute: bool) -> Stage:
        """See `Cutter.stage`."""
        return self.cutter.stage(cuts, index, recompute)
