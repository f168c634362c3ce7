"""TensorFlow functions called without `tf.function`'s own look at every argument.

`tf.function` and `ConcreteFunction.__call__` check and convert each tensor in Python: 7 µs apiece, over a millisecond
for a model of 200 variables. Here one dictionary look-up finds the graph of these shapes, and one operation calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


def _as_traced() -> bytes:
    """What keeps TensorFlow's graph optimizer (grappler) away.

    It regroups products and sums, pushes constants through them, and fuses operations into kernels with other bits;
    what it finds depends on how much of the model lies in one graph, so a stage would compute other bits than the
    uncut model. The arithmetic optimizer and the remapper do so in the tests of stages, constant folding may too; but
    which passes there are and what they do changes with TensorFlow, so all are off. That costs a step at most a few
    percent.
    """
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    serialized: bytes = config.SerializeToString()
    return serialized


AS_TRACED = _as_traced()


@dataclass(frozen=True)
class _Graph:
    """A traced function: what it captured, its outputs' dtypes, and what it gave while it was traced."""

    function: Any
    captured: list[Any]
    dtypes: list[Any]
    structure: Any

    def __call__(self, tensors: list[Any]) -> Any:
        results = tf.raw_ops.StatefulPartitionedCall(
            args=[*tensors, *self.captured], Tout=self.dtypes, f=self.function, config_proto=AS_TRACED
        )
        return refilled(self.structure, results)


def present(structure: Any) -> list[Any]:
    """The leaves of a nest that are not None."""
    return [leaf for leaf in tf.nest.flatten(structure) if leaf is not None]


def refilled(structure: Any, tensors: Iterable[Any]) -> Any:
    """The same nest with others in the places of the leaves that are not None."""
    others = iter(tensors)
    return tf.nest.map_structure(lambda leaf: None if leaf is None else next(others), structure)


def first_of(graph: Any, operations: Collection[str]) -> Any:
    """The first node of a graph that is one of these operations; None without one."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return next((node for node in nodes if node.op in operations), None)


class Graphs:
    """A function of nested tensors, traced once for each set of shapes.

    Args:
        function: what to trace; arguments and result hold tensors and None.

    >>> import numpy as np
    >>> twice = Graphs(lambda x, pair: (x + x, [pair[0], pair[1] * 2]))
    >>> first, (nothing, second) = twice(tf.constant(1.0), (None, tf.constant([3.0, 4.0])))
    >>> float(first), nothing, second.numpy().tolist()
    (2.0, None, [6.0, 8.0])
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._graphs: dict[tuple[Any, ...], _Graph] = {}

    def __call__(self, *arguments: Any) -> Any:
        leaves = tf.nest.flatten(arguments)
        key = tuple(None if leaf is None else (leaf.shape, leaf.dtype) for leaf in leaves)
        tensors = [leaf for leaf in leaves if leaf is not None]
        if key not in self._graphs:
            self._graphs[key] = self._traced(arguments, tensors)
        return self._graphs[key](tensors)

    def _traced(self, arguments: Any, tensors: list[Any]) -> _Graph:
        found: list[Any] = []

        def flat(*tensors: Any) -> list[Any]:
            found.append(self._function(*refilled(structure, tensors)))
            return [tf.convert_to_tensor(leaf) for leaf in present(found[-1])]

        structure = _without_values(arguments)
        function = tf.function(flat, autograph=False).get_concrete_function(*tensors)
        dtypes = [output.dtype for output in function.outputs]
        return _Graph(function, list(function.captured_inputs), dtypes, _without_values(found[-1]))


def _without_values(structure: Any) -> Any:
    return tf.nest.map_structure(lambda leaf: None if leaf is None else 0, structure)
