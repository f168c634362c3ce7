"""The compiled passes of one piece of a model at one shape.

XLA fuses what it compiles together, and a fused multiplication and addition round once, not twice: a model compiled
whole has other bits than its pieces, and XLA's CPU compiler drops optimization barriers before it fuses. So a piece
is compiled on its own wherever it is computed, in the uncut model as in any stage: the same programs, the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unisono.frameworks.jax.uses import Joint, Uses, differentiable


class Given(NamedTuple):
    """What a piece is given.

    Attributes:
        parameters, flowing, floats: its parameters, the memory and the leaves of its value that have gradients.
        memory, leaves: the other memory that it uses and the other leaves of its value.
        key, targets, samples: the microbatch's.
    """

    parameters: list[Any]
    flowing: list[Any]
    floats: list[Any]
    memory: list[Any]
    leaves: list[Any]
    key: Any
    targets: Any
    samples: Any


class Gave(NamedTuple):
    """What the forward pass of a piece gives.

    Attributes:
        leaves: its value's.
        memory: what it has changed.
        measured: the last piece's: Σ loss, weight, metrics.
    """

    leaves: list[Any]
    memory: dict[int, Any]
    measured: Any


class Gradients(NamedTuple):
    """Of what has gradients of `Given`, or of what a piece gives."""

    parameters: list[Any]
    flowing: list[Any]
    floats: list[Any]


@jax.tree_util.register_dataclass
@dataclass
class Residuals:
    """What a backward pass needs: the leaves of the function that `jax.vjp` returns, and how they are put together."""

    leaves: list[Any]
    structure: Any = field(metadata={"static": True})

    @classmethod
    def parted(cls, pull: Any, given: Given) -> Residuals:
        """Only those leaves that are not among what was given, so that no parameter is copied; the structure tells
        where the others are found."""
        places, inputs, new = [], jax.tree.leaves(given), list[Any]()
        leaves, tree = jax.tree.flatten(pull)
        for leaf in leaves:
            known = next((number for number, other in enumerate([*inputs, *new]) if other is leaf), None)
            if known is None:
                new.append(leaf)
            places.append(len(inputs) + len(new) - 1 if known is None else known)
        return cls(new, (tree, tuple(places)))

    def joined(self, given: Given) -> Residuals:
        """All leaves of what `parted` has parted."""
        (tree, places), known = self.structure, [*jax.tree.leaves(given), *self.leaves]
        return Residuals([known[place] for place in places], tree)

    def pull(self, gradients: Any) -> Any:
        """The backward pass."""
        return self.structure.unflatten(self.leaves)(gradients)


@dataclass(frozen=True)
class Places:
    """Where a piece lies in its model.

    Attributes:
        first, last: whether it is at an end.
        uses: what it uses.
        before, after: what crosses before it and after it.
        parameters, memory: the shapes of all parameters and of all memory.
        value: the shapes of what it is given.
        gives: the shapes of what it gives; None of the last one.
    """

    first: bool
    last: bool
    uses: Uses
    before: Joint
    after: Joint
    parameters: Sequence[Any]
    memory: Sequence[Any]
    value: Any
    gives: Any


class Program:
    """A piece, compiled.

    Args:
        function: (parameters, memory, key, value, targets, samples) → (value, memory), with all parameters and memory.
        places: where it lies.
    """

    def __init__(self, function: Callable[..., Any], places: Places) -> None:
        self._function, self.places, uses = function, places, places.uses
        self._flowing = tuple(index for index in uses.reads if index in places.before.flowing)
        self._plain = tuple(index for index in uses.reads if index not in places.before.flowing)
        handed = set(self._flowing) | set(uses.writes)
        self._flowing_on = tuple(index for index in places.after.flowing if index in handed)
        self._tied = tuple(number for number in uses.parameters if number in places.after.tied)
        leaves, self._tree = jax.tree.flatten(places.value)
        self._is_float = [not places.first and differentiable(leaf) for leaf in leaves]
        self._gives_float = [differentiable(leaf) for leaf in jax.tree.leaves(places.gives)]
        self._forward = jax.jit(self._both if places.last else self._forwarded)
        self._backward = jax.jit(Residuals.pull)

    # -- forward -------------------------------------------------------------------------------------------

    def given(
        self,
        parameters: Sequence[Any],
        memory: Sequence[Any],
        leaves: Sequence[Any],
        key: Any,
        targets: Any,
        samples: Any,
    ) -> Given:
        """What it is given, out of all that there is."""
        floats, others = _parted(leaves, self._is_float)
        return Given(
            [parameters[number] for number in self.places.uses.parameters],
            [memory[index] for index in self._flowing], floats, [memory[index] for index in self._plain], others,
            key, *((targets, samples) if self.places.last else (None, None)),
        )  # fmt: skip

    def forward(self, given: Given) -> tuple[Gave, Any]:
        """Its forward pass, and what the backward pass needs; the last piece does both at once: nothing lies between.

        Args:
            given: what `given` has gathered.
        """
        writes = self.places.uses.writes
        if self.places.last:
            (total, (weight, metrics, memory)), gradients = self._forward(given)
            return Gave([], dict(zip(writes, memory, strict=True)), (total, weight, metrics)), gradients
        leaves, memory, residuals = self._forward(given)
        return Gave(leaves, dict(zip(writes, memory, strict=True)), None), residuals.joined(given)

    def _parts(self, given: Given) -> tuple[Gradients, Callable[[Gradients], Any]]:
        """What has gradients, and the piece as a function of it."""

        def function(inputs: Gradients) -> Any:
            places = self.places
            parameters = _filled(places.parameters, places.uses.parameters, inputs.parameters)
            memory = _filled(places.memory, (*self._flowing, *self._plain), [*inputs.flowing, *given.memory])
            value = self._tree.unflatten(_joined(inputs.floats, given.leaves, self._is_float))
            return self._function(parameters, memory, given.key, value, given.targets, given.samples)

        return Gradients(given.parameters, given.flowing, given.floats), function

    def _forwarded(self, given: Given) -> Any:
        inputs, function = self._parts(given)

        def parted(inputs: Gradients) -> Any:
            value, memory = function(inputs)
            leaves = jax.tree.leaves(value)
            floats, _ = _parted(leaves, self._gives_float)
            own = dict(zip(self.places.uses.parameters, inputs.parameters, strict=True))
            flowing = [memory[index] for index in self._flowing_on]
            # A parameter is also an output, so that later pieces' parts of its gradient come first in its sum.
            outputs = Gradients([own[number] for number in self._tied], flowing, floats)
            return outputs, (leaves, [memory[index] for index in self.places.uses.writes])

        _, pull, (leaves, memory) = jax.vjp(parted, inputs, has_aux=True)
        return leaves, memory, Residuals.parted(pull, given)

    def _both(self, given: Given) -> Any:
        inputs, function = self._parts(given)

        def total(inputs: Gradients) -> Any:
            (total, weight, metrics), memory = function(inputs)
            return total, (weight, metrics, [memory[index] for index in self.places.uses.writes])

        return jax.value_and_grad(total, has_aux=True)(inputs)

    # -- backward ------------------------------------------------------------------------------------------

    def backward(
        self, kept: Any, parameters: dict[int, Any], flowing: dict[int, Any], leaves: Sequence[Any]
    ) -> list[Any]:
        """Its backward pass; returns the gradients of the leaves of its value, None where there is none.

        Args:
            kept: what the forward pass has kept.
            parameters, flowing: gradients of parameters and memory so far; its own are added.
            leaves: gradients of the leaves of what it gave.
        """
        gradients = kept
        if not self.places.last:
            floats = [leaf for leaf, is_float in zip(leaves, self._gives_float, strict=True) if is_float]
            tied = [parameters[number] for number in self._tied]
            (gradients,) = self._backward(kept, Gradients(tied, [flowing[at] for at in self._flowing_on], floats))
        parameters.update(zip(self.places.uses.parameters, gradients.parameters, strict=True))
        for index in self.places.uses.writes:
            flowing.pop(index, None)
        flowing.update(zip(self._flowing, gradients.flowing, strict=True))
        floats = iter(gradients.floats)
        return [next(floats) if is_float else None for is_float in self._is_float]


def _filled(shapes: Sequence[Any], places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    """Values in their places, and zeros, which are never used, in the others."""
    known = dict(zip(places, values, strict=True))
    return [known[place] if place in known else jnp.zeros(s.shape, s.dtype) for place, s in enumerate(shapes)]


def _parted(leaves: Sequence[Any], chosen: Sequence[bool]) -> tuple[list[Any], list[Any]]:
    pairs = list(zip(leaves, chosen, strict=True))
    return [leaf for leaf, is_chosen in pairs if is_chosen], [leaf for leaf, is_chosen in pairs if not is_chosen]


def _joined(chosen: Sequence[Any], others: Sequence[Any], is_chosen: Sequence[bool]) -> list[Any]:
    """The inverse of `_parted`."""
    sources = iter(chosen), iter(others)
    return [next(sources[0] if each else sources[1]) for each in is_chosen]
