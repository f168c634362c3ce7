"""Sums over the microbatches of a call along the one tree, whoever has computed them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from unisono.gradients.tree import Node, expression, fold

Value = TypeVar("Value")


def folded(
    run: range, total: int, leaf: Callable[[int], Value], add: Callable[[Value, Value], Value]
) -> dict[Node, Value]:  # fmt: skip
    """The partial sums of a run of microbatches, with as few values at a time as the tree allows.

    Args:
        run: the microbatches.
        total: how many the call has.
        leaf: gives a microbatch's value; called in order.
        add: left, right → their sum; may use left's memory for it.

    >>> folded(range(1, 4), 4, lambda microbatch: 10 ** microbatch, lambda left, right: left + right)
    {Node(level=0, index=1): 10, Node(level=1, index=1): 1100}
    """
    work = fold(run.start, run.stop, total)
    held: dict[int, Value] = {}
    for step in work.steps:
        held[step.buffer] = leaf(step.microbatch)
        for into, other in step.additions:
            held[into] = add(held[into], held.pop(other))
    return {node: held[buffer] for node, buffer in work.final.items()}


def nodes_of(run: range, total: int) -> list[Node]:
    """Which partial sums `folded` gives, in its order.

    >>> nodes_of(range(1, 4), 4)
    [Node(level=0, index=1), Node(level=1, index=1)]
    """
    return list(fold(run.start, run.stop, total).final)


def total_of(nodes: Mapping[Node, Value], total: int, add: Callable[[Value, Value], Value]) -> Value:
    """The sum of all microbatches from partial sums.

    Args:
        nodes: the partial sums; together they hold every microbatch.
        total: how many microbatches there are.
        add: see `folded`.

    >>> total_of({Node(0, 0): "a", Node(0, 1): "b", Node(0, 2): "c"}, 3, lambda left, right: f"({left}{right})")
    '((ab)c)'
    """

    def form(tree: Any) -> Any:
        return add(form(tree[0]), form(tree[1])) if isinstance(tree, tuple) else nodes[tree]

    result: Value = form(expression(total, {node: node for node in nodes}))
    return result


def summed(values: list[Value], add: Callable[[Value, Value], Value]) -> Value:
    """The sum of one value a microbatch.

    >>> summed(["a", "b", "c"], lambda left, right: f"({left}{right})")
    '((ab)c)'
    """
    return total_of({Node(0, number): value for number, value in enumerate(values)}, len(values), add)
