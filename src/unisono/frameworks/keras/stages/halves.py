"""The two halves of a stage's graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import tensorflow as tf

from unisono.errors import UsageError
from unisono.frameworks.keras.backends.graphs import first_of, present, refilled
from unisono.frameworks.keras.stages.tracing import Traced, packed, unpacked
from unisono.frameworks.protocol import Indices

REWRITTEN = {"Case", "If", "StatelessCase", "StatelessIf", "StatelessWhile", "While"}
"""Operations that TensorFlow changes when it differentiates them: a forward half with them can't be parted off."""


@dataclass
class _Backward:
    """A backward half: a function of what was given, what lies between, and the gradients from outside; and of which
    parameters and received values it gives gradients."""

    function: Callable[..., Any]
    parameters: list[int]
    values: list[int]


class Halves:
    """A stage's forward and backward functions for microbatches of one shape.

    Args:
        trace: (given) → the forward pass, traced into the current graph.
        given: what the forward pass takes, of this shape.
        added_to: see `Span`.
        compiled: see `Backend.compiled`.

    Attributes:
        dtypes: of the values for the next stage.

    Raises:
        UsageError: the stage has a loop or a branch.
    """

    def __init__(
        self, trace: Callable[[Any], Traced], given: Mapping[str, Any], added_to: Indices,
        compiled: Callable[..., Any],
    ) -> None:  # fmt: skip
        self._compiled = compiled
        specs = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in present(given)]
        found: list[Traced] = []

        def flat(*tensors: Any) -> list[Any]:
            found.append(trace(refilled(given, tensors)))
            return [tf.identity(leaf) for leaf in present(found[0].result)]

        self._whole = tf.compat.v1.wrap_function(flat, specs)
        self._traced, self._graph = found[0], self._whole.graph
        _refuse_rewritten(self._graph)
        self.dtypes = self._traced.dtypes
        self._given, self._made = self._graph.inputs[: len(specs)], list(self._whole.outputs)
        self._half = cache(self._backward_half)
        self._outer: dict[int, Any] = {}
        self._parts: dict[int, Any] = {}
        with self._graph.as_default():
            if "measured" not in self._traced.result:
                floating = [n for n, target in enumerate(self._traced.targets) if target.dtype.is_floating]
                self._outer = {n: _placeholder(self._traced.targets[n]) for n in floating}
            self._parts = {n: _placeholder(self._traced.parameters[n]) for n in added_to}
        self._between = self._needed([g for g in self._differentiated(tuple(self._outer), added_to) if g is not None])
        self._forward = self._function(self._given, [*self._made, *self._between])

    def forward(self, given: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        """(result, what the backward half needs)."""
        flat = self._forward(given)
        return refilled(self._traced.result, flat), list(flat[len(self._made) :])

    def backward(
        self, given: list[Any], between: list[Any] | None, outer: Sequence[Any], parts: Mapping[int, Any]
    ) -> tuple[dict[int, Any], dict[int, Any]]:
        """The gradients of the parameters and of the received values, by number.

        Args:
            given: what the forward half was given.
            between: what it kept; None = compute it again.
            outer: the gradients of the sent values, or None.
            parts: the gradients of parameters that later stages have found.
        """
        came = tuple(n for n in self._outer if outer[n] is not None)
        half = self._half(came, tuple(parts), between is None)
        outside = [unpacked(outer[n], self.dtypes[n]) for n in came]
        flat = iter(half.function([*given, *(between or ()), *outside, *parts.values()]))
        parameters = {n: next(flat) for n in half.parameters}
        return parameters, {n: next(flat) for n in half.values}

    def _backward_half(self, came: Indices, parts: Indices, again: bool) -> _Backward:
        traced = self._traced
        gradients = self._differentiated(came, parts)
        count = len(traced.parameters)
        parameters = {n: g for n, g in zip(traced.parameters, gradients[:count], strict=True) if g is not None}
        values = {n: g for n, g in zip(traced.values, gradients[count:], strict=True) if g is not None}
        outside = [*(self._outer[n] for n in came), *(self._parts[n] for n in parts)]
        with self._graph.as_default():
            results = [
                *(tf.identity(g) for g in parameters.values()),
                *(packed(tf.identity(g)) for g in values.values()),
            ]
        function = self._function([*self._given, *(() if again else self._between), *outside], results)
        return _Backward(function, list(parameters), list(values))

    def _differentiated(self, came: Indices, parts: Indices) -> list[Any]:
        """The gradients of all sources, traced in the stage's graph. What comes from later stages is the first
        addend of each sum, as in the uncut model: a parameter with such a part is among what is differentiated."""
        traced = self._traced
        sources = [*traced.parameters.values(), *traced.values.values()]
        targets, outside = traced.targets, None
        if "measured" not in traced.result:
            targets = [*(traced.targets[n] for n in came), *(traced.parameters[n] for n in parts)]
            outside = [*(self._outer[n] for n in came), *(self._parts[n] for n in parts)]
        if not (sources and targets):
            return [None] * len(sources)
        with self._graph.as_default():
            gradients: list[Any] = traced.tape.gradient(targets, sources, outside)
        return gradients

    def _needed(self, gradients: Sequence[Any]) -> list[Any]:
        """The tensors of the forward half that the backward half needs."""
        forward = _ancestors([tensor.op for tensor in self._made])
        given = {id(tensor.op) for tensor in (*self._graph.inputs, *self._graph.internal_captures)}
        backward = [op for op in _ancestors([g.op for g in gradients]).values() if id(op) not in forward]
        found = {
            tensor.ref(): tensor for tensor in (*(t for op in backward for t in op.inputs), *gradients)
            if id(tensor.op) in forward and id(tensor.op) not in given and tensor.op.type != "Const"
        }  # fmt: skip
        return list(found.values())

    def _function(self, feeds: Sequence[Any], fetches: Sequence[Any]) -> Callable[[list[Any]], Any]:
        part = self._whole.prune(list(feeds), list(fetches))
        compiled: Callable[[list[Any]], Any] = self._compiled(lambda tensors: part(*tensors))
        return compiled


def _placeholder(like: Any) -> Any:
    return tf.compat.v1.placeholder(like.dtype, like.shape)


def _refuse_rewritten(graph: Any) -> None:
    found = first_of(graph, REWRITTEN)
    if found is not None:
        raise UsageError(
            f"a Keras model that is cut has no loops and branches in its graph; {found.name!r} is one ({found.op}). "
            "Give a recurrent layer unroll=True, replace it with convolutions or attention, or train with pipeline=1."
        )


def _ancestors(operations: Sequence[Any]) -> dict[int, Any]:
    """These operations and all that they depend on, by identity."""
    found: dict[int, Any] = {}
    stack = list(operations)
    while stack:
        operation = stack.pop()
        if id(operation) not in found:
            found[id(operation)] = operation
            stack += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    return found
