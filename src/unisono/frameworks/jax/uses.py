"""What each piece of a model uses and changes, found by tracing it, and what therefore crosses between pieces.

"Memory" is what pieces may leave for later ones besides their value: the model's state (batch statistics …), then the
counts of its streams of random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from unisono.frameworks.cuts import across
from unisono.frameworks.protocol import Indices


@dataclass(frozen=True)
class Uses:
    """What one piece uses.

    Attributes:
        parameters: the numbers of the parameters.
        reads: the indices of the memory that it uses.
        writes: the indices of the memory that it changes.
    """

    parameters: Indices
    reads: Indices
    writes: Indices


def uses(
    function: Callable[..., Any], parameters: Sequence[Any], memory: Sequence[Any], *rest: Any
) -> tuple[Uses, Any]:
    """What a function (parameters, memory, *rest) → (value, new memory) uses, and its value's shapes."""
    closed, (value, _) = jax.make_jaxpr(function, return_shape=True)(list(parameters), list(memory), *rest)
    jaxpr = closed.jaxpr
    split = len(jaxpr.outvars) - len(memory)
    first, end = len(parameters), len(parameters) + len(memory)
    pairs = zip(jaxpr.outvars[split:], jaxpr.invars[first:end], strict=True)
    writes = [index for index, (after, before) in enumerate(pairs) if after is not before]
    needed = _variables([*jaxpr.outvars[:split], *(jaxpr.outvars[split + index] for index in writes)])
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not needed.isdisjoint(equation.outvars):
            needed |= _variables(equation.invars)
    used = [number for number, variable in enumerate(jaxpr.invars[:end]) if variable in needed]
    return Uses(
        tuple(number for number in used if number < first),
        tuple(number - first for number in used if number >= first),
        tuple(writes),
    ), value


def _variables(atoms: Sequence[Any]) -> set[Any]:
    return {atom for atom in atoms if isinstance(atom, Var)}


@dataclass(frozen=True)
class Joint:
    """What crosses after a piece, besides its value.

    Attributes:
        memory: what pieces so far have changed and later ones use.
        flowing: that of it which has gradients.
        tied: the parameters used on both sides: their partial gradients cross backward.
    """

    memory: Indices
    flowing: Indices
    tied: Indices


def joints(pieces: Sequence[Uses], memory: Sequence[Any]) -> tuple[Joint, ...]:
    """After each piece, what crosses; nothing after the last one."""
    found: list[Joint] = []
    wanted = set[int]()  # memory that later pieces use
    for number in reversed(range(len(pieces))):
        changed = {index for piece in pieces[: number + 1] for index in piece.writes}
        crossing = sorted(wanted & changed)
        flowing = [index for index in crossing if differentiable(memory[index])]
        tied = across([piece.parameters for piece in pieces], number + 1)
        found.append(Joint(tuple(crossing), tuple(flowing), tuple(sorted(tied))))
        wanted = wanted - set(pieces[number].writes) | set(pieces[number].reads)
    return tuple(reversed(found))


def differentiable(leaf: Any) -> bool:
    """Whether a gradient flows through it."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))
