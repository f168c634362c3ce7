"""A model as the core sees it: tensors by number, its optimizers' state, what a saved file holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unisono.gradients.regions import Kind, Region


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's name, shape and dtype (names of NumPy; "bfloat16" is carried as uint16)."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def storage(self) -> str:
        """The NumPy dtype that carries its bits."""
        return "uint16" if self.dtype == "bfloat16" else self.dtype


Vectors = Mapping[str, Mapping[int, tuple[tuple[int, ...], str]]]
"""By key and parameter number the shape and dtype of a state tensor."""


@dataclass(frozen=True)
class StateSpec:
    """An optimizer's state, found by probing it once.

    Attributes:
        vectors: its state tensors.
        scalars: keys whose value is one number a parameter (`step`, NAdam's `mu_product`).
        tree: instead of these it is a tree that may grow (`Adapter.state_tree`), of an optimizer over the whole model.
        averaged: the parameters are trained as one set and evaluated and saved as another (schedulefree).
    """

    vectors: Vectors
    scalars: tuple[str, ...]
    tree: bool = False
    averaged: bool = False

    @staticmethod
    def of(found: Iterable[tuple[str, int, Sequence[int], str]], scalars: Iterable[str]) -> StateSpec:
        """A state of tensors (key, parameter number, shape, dtype) and numbers.

        >>> StateSpec.of([("m", 0, [2], "float32"), ("m", 1, [3], "float32")], ["step"]).vectors
        {'m': {0: ((2,), 'float32'), 1: ((3,), 'float32')}}
        """
        vectors: dict[str, dict[int, tuple[tuple[int, ...], str]]] = {}
        for key, number, shape, dtype in found:
            vectors.setdefault(key, {})[number] = tuple(shape), dtype
        return StateSpec(vectors, tuple(scalars))


@dataclass(frozen=True)
class Source:
    """Where the tensor saved under a name of `state_dict()` lies: its kind and its index among that kind."""

    name: str
    kind: Literal["parameter", "frozen", "buffer"]
    index: int


@dataclass(frozen=True)
class ModelDescription:
    """All that the core knows of a model.

    Attributes:
        parameters: every parameter, by number.
        owners: per parameter the index of its optimizer, or None when it is frozen.
        kinds: per optimizer how its update may be cut.
        states: per optimizer its state.
        buffers: every buffer.
        saved: what the saved file holds.
        optimizers: per optimizer its class and the numbers in its groups, as plain values.
        fingerprint: framework versions and numerics.
    """

    parameters: tuple[TensorSpec, ...]
    owners: tuple[int | None, ...]
    kinds: tuple[Kind, ...]
    states: tuple[StateSpec, ...]
    buffers: tuple[TensorSpec, ...]
    saved: tuple[Source, ...]
    optimizers: tuple[Mapping[str, Any], ...]
    fingerprint: Mapping[str, str]


def regions_of(description: ModelDescription) -> tuple[Region, ...]:
    """One for each optimizer and dtype, in their order."""
    members: dict[tuple[int, str], list[tuple[int, str, tuple[int, ...]]]] = {}
    for number, (owner, spec) in enumerate(zip(description.owners, description.parameters, strict=True)):
        if owner is not None:
            members.setdefault((owner, spec.dtype), []).append((number, spec.name, spec.shape))
    return tuple(
        Region.pack(index, dtype, owner, description.kinds[owner], members[owner, dtype])
        for index, (owner, dtype) in enumerate(sorted(members))
    )
