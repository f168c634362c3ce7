"""An optax transformation's state as the core keeps it, and its compiled updates.

An elementwise update is compiled for one length, TILE, and every element goes through that one program: how slices are
cut can't reach the bits, because there is no other length with another vector remainder. What is shorter is packed
with other short pieces into a private tile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unisono.errors import UsageError
from unisono.frameworks.arrays import leave_first
from unisono.frameworks.jax import transformations
from unisono.frameworks.jax.memory import host, path_words, typed, untyped
from unisono.frameworks.jobs import kind_by_probe
from unisono.frameworks.protocol import Array, States, StateSpec
from unisono.gradients.regions import Kind
from unisono.trees.marks import mark

TILE = 32768
"""Elements of a compiled elementwise update: 49 µs, of which about 20 are the call; 65,536 take 76 µs (measured)."""

Program = Callable[[list[Any], list[Any], list[Any]], tuple[list[Any], list[Any]]]
"""(leaves of parameters, of gradients, of the state) → (new leaves of parameters, of the state)."""


@dataclass(frozen=True)
class StateLeaf:
    """One leaf of the transformation's state.

    Attributes:
        key: its name without the parameter's.
        number: the parameter that it belongs to; None = to all.
        shape, dtype: of the array; a typed key's data.
    """

    key: str
    number: int | None
    shape: tuple[int, ...]
    dtype: Any

    @property
    def is_scalar(self) -> bool:
        """Whether it is a number that all elements share."""
        return self.number is None and not self.shape

    @property
    def storage(self) -> str:
        """The NumPy dtype that carries its bits."""
        return "uint16" if self.dtype == jnp.bfloat16 else str(np.dtype(self.dtype))


class Optimizer:
    """A transformation over a pytree of parameters.

    Args:
        transformation: optax's, or one with the same two functions.
        parameters: the pytree, of arrays or their shapes.

    Raises:
        UsageError: it needs more than gradients, or parameters of one dtype.
    """

    def __init__(self, transformation: Any, parameters: Any) -> None:
        self.transformation = transformation
        self._shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), parameters)
        self._state = self._abstract_state()
        self.leaves = self._named_leaves()
        self._tiles: dict[str, Tile] = {}
        dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(self._shapes)}
        self.kind = self._kind(dtypes)
        numbers = [leaf.key for leaf in self.leaves if leaf.is_scalar] if self.kind == "elementwise" else []
        self.scalars = tuple(dict.fromkeys(numbers))
        if self.kind == "whole" and len(dtypes) > 1:
            raise UsageError(
                "an optimizer that updates the whole model at once needs parameters of one dtype; received "
                f"{' and '.join(sorted(dtypes))}. Make them one, or use an elementwise optimizer (optax.adam …)."
            )

    def _named_leaves(self) -> list[StateLeaf]:
        """The state's leaves. What has no dimensions is named as a vector of one element would be: with a parameter
        that has none itself, shapes do not tell a moment from a count."""
        vectors = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape or (1,), leaf.dtype), self._shapes)
        try:
            names = _leaves(vectors, jax.eval_shape(self.transformation.init, vectors))
        except Exception:  # it knows these shapes alone
            names = _leaves(self._shapes, self._state)
        found = [jax.eval_shape(untyped, leaf) for leaf in jax.tree.leaves(self._state)]
        return [replace(name, shape=data.shape) for name, data in zip(names, found, strict=True)]

    def _abstract_state(self) -> Any:
        def changes(state: Any) -> bool:
            before = mark(self.transformation.update, _array)
            jax.eval_shape(partial(transformations.apply, self.transformation), self._shapes, self._shapes, state)
            return bool(mark(self.transformation.update, _array) != before)

        try:
            state = jax.eval_shape(self.transformation.init, self._shapes)
            impure = changes(state) and changes(state)  # optax itself changes a number to a float, once
        except Exception as error:
            raise UsageError(
                "an optax transformation must work from gradients, state and parameters alone; trying it raised "
                f"{type(error).__name__}: {str(error).partition(chr(10))[0]}. Use one that needs no value= or "
                "value_fn= (not lbfgs, polyak_sgd or reduce_on_plateau)."
            ) from error
        if impure:
            raise UsageError(
                "an optax transformation is compiled, so all that changes must be in its state; its update changes "
                "something beside it (a counter in a closure or an object). Keep that in the state that update returns."
            )
        return state

    def _kind(self, dtypes: set[str]) -> Kind:
        if not transformations.may_be_elementwise(self.transformation):
            return "whole"
        shapes = [leaf.shape for leaf in jax.tree.leaves(self._shapes)]
        if any(leaf.shape != (() if leaf.number is None else shapes[leaf.number]) for leaf in self.leaves):
            return "whole"
        self._tiles = {dtype: Tile(self.transformation, dtype) for dtype in dtypes}
        names = ", ".join(name for name, _ in transformations.described(self.transformation))
        return kind_by_probe(names, all(tile.is_elementwise() for tile in self._tiles.values()))

    def tile(self, dtype: str) -> Tile:
        """The compiled elementwise update."""
        return self._tiles[dtype]

    @property
    def spec(self) -> StateSpec:
        """The state as the core keeps it; what belongs to no parameter lies with the first."""
        vectors = [leaf for leaf in self.leaves if leaf.key not in self.scalars]
        return StateSpec.of(((v.key, v.number or 0, v.shape, v.storage) for v in vectors), self.scalars)

    def initial(self, parameters: Any, state: States, rows: Mapping[int, Array]) -> None:
        """Write the state before the first step."""
        for row in rows.values():
            row[: 1 + len(self.scalars)] = [1.0, *[0.0] * len(self.scalars)]
        values = jax.tree.leaves(jax.jit(self.transformation.init)(parameters))
        for leaf, first in zip(self.leaves, values, strict=True):
            value = host(untyped(first))
            if leaf.key in self.scalars:
                for number in rows:
                    rows[number][1 + self.scalars.index(leaf.key)] = value
            else:
                leave_first(value.view(leaf.storage), state[leaf.number or 0][leaf.key])

    def whole(self) -> Program:
        """The update of all parameters."""
        return _program(self.transformation, self._shapes)


def _program(transformation: Any, shapes: Any) -> Program:
    """The compiled update of a pytree of parameters."""
    state = jax.eval_shape(transformation.init, shapes)
    tree, state_tree, kinds = jax.tree.structure(shapes), jax.tree.structure(state), jax.tree.leaves(state)

    def update(parameters: list[Any], gradients: list[Any], state: list[Any]) -> tuple[list[Any], list[Any]]:
        held = state_tree.unflatten([typed(value, kind) for value, kind in zip(state, kinds, strict=True)])
        new, held = transformations.apply(transformation, tree.unflatten(parameters), tree.unflatten(gradients), held)
        return jax.tree.leaves(new), [untyped(value) for value in jax.tree.leaves(held)]

    program: Program = jax.jit(update)
    return program


class Tile:
    """The update of TILE elements of one dtype, compiled."""

    def __init__(self, transformation: Any, dtype: str) -> None:
        shape = jax.ShapeDtypeStruct((TILE,), np.dtype(dtype))
        self.leaves = _leaves(shape, jax.eval_shape(transformation.init, shape))
        self._initial, self._dtype = transformation.init, dtype
        self.program = _program(transformation, shape)

    def is_elementwise(self) -> bool:
        """Whether elements get the same bits at other places and beside others, over three steps."""
        shift = 4099
        values = np.linspace(0.5, 2, TILE, dtype=self._dtype)
        moved = np.concatenate([3 - values[:shift], values[:-shift]])
        try:
            here, there = self._three_steps(values), self._three_steps(moved)
        except (TypeError, ValueError):  # it does not take vectors
            return False
        return all(np.array_equal(a[:-shift], b[shift:]) for a, b in zip(here, there, strict=True))

    def _three_steps(self, values: Array) -> list[Array]:
        state = jax.tree.leaves(jax.jit(self._initial)(values))
        parameters: Any = values
        for step in range(3):
            gradients = (values - np.asarray(1.2 + step / 9, self._dtype)) * np.asarray(1 + step, self._dtype)
            (parameters,), state = self.program([parameters], [gradients], state)
        return [host(value) for value in (parameters, *state) if value.ndim]


def _leaves(parameters: Any, state: Any) -> list[StateLeaf]:
    """Name each leaf of the state after the parameter whose path ends its own."""
    paths = [path_words(path) for path, _ in jax.tree_util.tree_leaves_with_path(parameters)]
    numbers = {path: number for number, path in enumerate(paths)}
    lengths = sorted(set(map(len, paths)), reverse=True)
    shapes = [leaf.shape for leaf in jax.tree.leaves(parameters)]
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        words, data = path_words(path), jax.eval_shape(untyped, leaf)
        ends = (words[max(len(words) - length, 0) :] for length in lengths)
        number = next((numbers[end] for end in ends if end in numbers), None)
        if number is not None and not paths[number] and data.shape != shapes[number]:
            number = None  # a single array has no path to end with
        key = words if number is None else words[: len(words) - len(paths[number])]
        found.append(StateLeaf(".".join(key), number, data.shape, data.dtype))
    return found


def _array(value: Any) -> int | None:
    """An array's mark: arrays of JAX never change."""
    return id(value) if isinstance(value, jax.Array) else None
