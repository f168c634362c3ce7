"""The gradient of a model that can be cut, piece by piece: the same programs in the uncut model and in stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unisono.errors import JobError
from unisono.frameworks.jax.compute import Compute, cast
from unisono.frameworks.jax.forms import Form
from unisono.frameworks.jax.pieces import Piece
from unisono.frameworks.jax.programs import Places, Program
from unisono.frameworks.jax.purity import explained, no_side_effects
from unisono.frameworks.jax.uses import Joint, joints, uses
from unisono.frameworks.protocol import Array
from unisono.job import Job


@dataclass(frozen=True)
class Known:
    """What one process knows before a forward pass.

    Attributes:
        parameters: all of them.
        memory: the state, then the counts of the streams of random numbers (see `unisono.frameworks.jax.uses`).
        key: the microbatch's.
    """

    parameters: Sequence[Any]
    memory: Sequence[Any]
    key: Array


class CutCompute(Compute):
    """`Compute` of a model in pieces.

    Args:
        job, form: see `Compute`; `job.forward` is the whole model's, for evaluation.
        pieces: the model's.
        counts: see `first_counts`.
    """

    def __init__(self, job: Job, form: Form, pieces: Sequence[Piece], counts: Sequence[Any]) -> None:
        super().__init__(job, form)
        self._functions = (*self._functions, *(piece.apply for piece in pieces))
        self.pieces, self._counts = tuple(pieces), list(counts)
        self.states = len(form.state_names)
        self._programs: dict[Any, tuple[Program, ...]] = {}

    def known(self, parameters: Sequence[Any], state: Sequence[Any], key: Array) -> Known:
        """What is known before a microbatch's first piece."""
        return Known(parameters, [*state, *self._counts], key)

    def gradient(self, parameters: list[Any], state: list[Any], key: Array, batch: Any, samples: int) -> Any:
        """See `Compute.gradient`."""
        known = self.known(parameters, state, key)
        programs = self.programs(known, batch)
        with explained():
            there = forward(programs, known, jax.tree.leaves(batch[0]), batch, samples, False)
            gradients: dict[int, Any] = {}
            backward(there.kept, gradients, {}, [])
            memory = there.memory[: self.states]
            total, weight, metrics = there.measured
            found = [gradients[n] if n in gradients else jnp.zeros_like(leaf) for n, leaf in enumerate(parameters)]
            return jax.block_until_ready(((total, (weight, metrics, memory)), found))

    def programs(self, known: Known, batch: Any) -> tuple[Program, ...]:
        """The pieces at this batch's shape.

        Raises:
            JobError: they use other parameters or state than at another shape.
        """
        leaves, structure = jax.tree.flatten(batch)
        shape = structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in map(np.asarray, leaves))
        if shape not in self._programs:
            with explained():
                programs = self._trace(known, batch)
            first = next(iter(self._programs.values()), programs)
            if any(one.places.uses != other.places.uses for one, other in zip(programs, first, strict=True)):
                raise JobError(
                    "a piece of a model that is cut must use the same parameters and state in every microbatch; it "
                    "used others in one with another number of samples. Let no Python condition depend on a shape."
                )
            self._programs[shape] = programs
        return self._programs[shape]

    def _trace(self, known: Known, batch: Any) -> tuple[Program, ...]:
        values, found = [batch[0]], []
        for number in range(len(self.pieces)):
            last = number == len(self.pieces) - 1
            rest = known.key, values[-1], *((batch[1], np.float32(1)) if last else (None, None))
            used, gives = uses(self._function(number), known.parameters, known.memory, *rest)
            found.append(used)
            values.append(None if last else gives)
        crossing = joints(found, known.memory)
        shapes = [[jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
                  for leaves in (known.parameters, known.memory)]  # fmt: skip
        return tuple(
            Program(self._function(number), Places(
                number == 0, number == len(found) - 1, used, crossing[number - 1] if number else Joint((), (), ()),
                crossing[number], *shapes, *values[number : number + 2],
            ))
            for number, used in enumerate(found)
        )  # fmt: skip

    def _function(self, number: int) -> Any:
        """A piece as `Program` takes it."""
        piece, last = self.pieces[number], number == len(self.pieces) - 1
        low = self._job.precision == "bfloat16"

        def function(parameters: list[Any], memory: list[Any], key: Any, value: Any, targets: Any, samples: Any) -> Any:
            state, counts = memory[: self.states], memory[self.states :]
            key = jax.random.wrap_key_data(key, impl="threefry2x32")
            if low:
                parameters, value = (
                    cast(parameters, jnp.bfloat16),
                    cast(value, jnp.bfloat16) if number == 0 else value,
                )
            with no_side_effects(self._functions):
                trees = self._trees
                value, changed, counts = piece.call(
                    self._form, trees[0].unflatten(parameters), trees[1].unflatten(state), counts, value, key
                )
                memory = [*self._like(state, changed), *counts]
                if not last:
                    return _strong(value), memory
                outputs = cast(value, jnp.float32, jnp.bfloat16) if low else value
                total, weight = self._loss(outputs, targets, samples)
                seen = jax.lax.stop_gradient(outputs)
                return (total, weight, self._metric_pairs(self._job.training_metrics, seen, targets)), memory

        return function


def _strong(value: Any) -> Any:
    """A value with dtypes that no longer depend on what it is combined with: they must survive a crossing.

    Raises:
        JobError: it holds something else than arrays and numbers.
    """
    try:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), value)
    except TypeError as error:
        raise JobError(
            "pieces of a model pass arrays to each other, nested in tuples, lists and dicts as you like; received "
            f"{sorted({type(leaf).__name__ for leaf in jax.tree.leaves(value)})}. Make anything else again in the "
            "next piece."
        ) from error


@dataclass(frozen=True)
class Forward:
    """What the forward pass of several pieces gives.

    Attributes:
        leaves: of the last one's value.
        memory: all of it, afterwards.
        written: what was changed.
        kept: what the backward pass needs.
        measured: Σ loss, weight, metrics, where the model's last piece is among them.
    """

    leaves: list[Any]
    memory: list[Any]
    written: dict[int, Any]
    kept: list[Any]
    measured: Any


def forward(
    programs: Sequence[Program], known: Known, leaves: list[Any], batch: Any, samples: int, recompute: bool
) -> Forward:
    """The forward passes of consecutive pieces.

    Args:
        programs: theirs.
        known: parameters, memory and key.
        leaves: of what the first one is given.
        batch, samples: the microbatch.
        recompute: keep what each piece is given, and compute the rest again going backward.
    """
    memory, written, kept, measured = list(known.memory), dict[int, Any](), list[Any](), None
    for program in programs:
        given = program.given(known.parameters, memory, leaves, known.key, batch[1], np.float32(samples))
        gave, residuals = program.forward(given)
        leaves, measured = gave.leaves, gave.measured
        written |= gave.memory
        for index, value in gave.memory.items():
            memory[index] = value
        again = recompute and program is not programs[-1]
        kept.append((program, given if again else None, None if again else residuals))
    return Forward(leaves, memory, written, kept, measured)


def backward(
    kept: list[Any], parameters: dict[int, Any], flowing: dict[int, Any], leaves: Sequence[Any]
) -> Sequence[Any]:
    """Their backward passes, the last one's first; see `Program.backward`."""
    for program, given, residuals in reversed(kept):
        if given is not None:
            _, residuals = program.forward(given)
        leaves = program.backward(residuals, parameters, flowing, leaves)
    return leaves
