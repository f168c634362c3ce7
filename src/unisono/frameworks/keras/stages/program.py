"""A model as a list of operations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.models.functional import Functional, operation_fn

from unisono.errors import UsageError
from unisono.frameworks.keras.stages.entrance import Entrance
from unisono.frameworks.protocol import Indices


@dataclass(frozen=True)
class Step:
    """One operation. Values are numbered; the model's inputs come first.

    Attributes:
        name: where it lies in the model.
        operation: a layer, an operation, or the entrance of a nested model.
        takes: id of a symbolic tensor → the value that it stands for.
        gives: the values that it makes.
        call: (values, training) → what it makes.
        dense: these are dense tensors.
    """

    name: str
    operation: Any
    takes: Mapping[int, int]
    gives: Indices
    call: Callable[[Mapping[int, Any], bool], Sequence[Any]]
    dense: bool = True


class Program:
    """A model's operations in the order in which Keras calls them, nested models unrolled.

    Args:
        model: a Sequential or functional model.

    Attributes:
        steps: the operations.
        units: per unit the number of its first step, and at the end the number of steps.
        outputs: the values that the model gives.

    Raises:
        UsageError: another kind of model.
    """

    def __init__(self, model: Any) -> None:
        graph = _inner(model)
        if graph is None:
            raise UsageError(
                f"a Keras model is cut between its layers, so it must say what they are: a Sequential or a functional "
                f"model; received {type(model).__name__}, whose layers only its own code knows. Build it with "
                "keras.Sequential([...]) or keras.Model(inputs, outputs), or train it with pipeline=1."
            )
        self._graph, self._entrance = graph, Entrance(model, graph)
        self._numbers = itertools.count(len(graph.inputs))
        self.steps: list[Step] = []
        self.outputs = tuple(self._unroll(graph, range(len(graph.inputs)), ""))
        starts = [n for n in range(len(self.steps)) if n == 0 or not isinstance(self.steps[n - 1].operation, Entrance)]
        self.units = (*starts, len(self.steps))

    def given(self, inputs: Any) -> dict[int, Any]:
        """The first values: the model's inputs as it takes them."""
        return dict(enumerate(self._graph._standardize_inputs(self._entrance.cast(inputs))))

    def result(self, values: Mapping[int, Any]) -> Any:
        """What the model returns."""
        packed = keras.tree.pack_sequence_as(self._graph._outputs_struct, [values[n] for n in self.outputs])
        return packed[0] if isinstance(packed, list | tuple) and len(packed) == 1 else packed

    def crossing(self, step: int) -> Indices:
        """The values that steps before this one give and it or later ones take; the model's inputs are everywhere."""
        made = {number for earlier in self.steps[:step] for number in earlier.gives}
        needed = {number for later in self.steps[step:] for number in later.takes.values()} | set(self.outputs)
        return tuple(sorted(made & needed)) if step < len(self.steps) else ()

    def _unroll(self, graph: Any, given: Sequence[int], path: str) -> list[int]:
        """Add a graph's steps, in the order of `Function.run_through_graph`; returns the values that it gives."""
        numbers = {id(tensor): number for tensor, number in zip(graph.inputs, given, strict=True)}
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                computable = all(id(tensor) in numbers for tensor in node.input_tensors)
                if node.operation and not node.is_input and computable:
                    gives = self._add(node, numbers, path)
                    numbers.update(zip(map(id, node.outputs), gives, strict=True))
        return [numbers[id(tensor)] for tensor in graph.outputs]

    def _add(self, node: Any, numbers: Mapping[int, int], path: str) -> Sequence[int]:
        operation, name = node.operation, path + node.operation.name
        takes = {id(tensor): numbers[id(tensor)] for tensor in node.input_tensors}
        inner = _inner(operation)
        if inner is not None and len(node.arguments.args) == 1 and not node.arguments.kwargs:
            entrance = Entrance(operation, inner)
            order = [numbers[id(tensor)] for tensor in node.input_tensors]
            entered = tuple(next(self._numbers) for _ in order)
            self.steps.append(Step(name, entrance, takes, entered, lambda v, _: entrance.enter([v[n] for n in order])))
            return self._unroll(inner, entered, f"{name}/")
        gives = tuple(next(self._numbers) for _ in node.outputs)

        def call(values: Mapping[int, Any], training: bool) -> Sequence[Any]:
            arguments, named = node.arguments.fill_in({tensor: values[number] for tensor, number in takes.items()})
            made: Sequence[Any] = keras.tree.flatten(operation_fn(operation, training=training)(*arguments, **named))
            return made

        dense = not any(getattr(t, "sparse", False) or getattr(t, "ragged", False) for t in node.outputs)
        self.steps.append(Step(name, operation, takes, gives, call, dense))
        return gives


def _inner(operation: Any) -> Any:
    """The graph of layers that calling this is, else None."""
    if isinstance(operation, keras.Sequential) and type(operation).call is keras.Sequential.call:
        return operation._functional
    if isinstance(operation, Functional) and type(operation).call is Functional.call:
        return operation
    return None
