"""Any boundaries between slots give the additions of one slot."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from unisono.gradients.tree import Node, aligned_nodes, expression, fold


def sums(start: int, stop: int, total: int) -> dict[Any, Any]:
    """Carry out a fold on names of microbatches; returns the expression that each node's buffer holds."""
    folded = fold(start, stop, total)
    buffers: dict[int, Any] = {}
    for step in folded.steps:
        buffers[step.buffer] = step.microbatch
        for into, other in step.additions:
            buffers[into] = (buffers[into], buffers[other])
    return {node: buffers[buffer] for node, buffer in folded.final.items()}


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, list[int]]:
    total = draw(st.integers(1, 70))
    cuts = sorted(draw(st.lists(st.integers(0, total), max_size=8)))
    return total, [0, *cuts, total]


@given(worlds())
def test_any_boundaries_give_the_same_additions(world: tuple[int, list[int]]) -> None:
    total, boundaries = world
    owned: dict[Any, Any] = {}
    for start, stop in pairwise(boundaries):
        owned.update(sums(start, stop, total))
    assert expression(total, owned) == expression(total, sums(0, total, total))


@given(worlds())
def test_a_slot_leaves_few_nodes_and_needs_few_buffers(world: tuple[int, list[int]]) -> None:
    total, boundaries = world
    most = 2 * max(total - 1, 1).bit_length()
    for start, stop in pairwise(boundaries):
        assert len(aligned_nodes(start, stop, total)) <= max(most - 2, 1)
        folded = fold(start, stop, total)
        assert max(folded.written(add=False), default=0) <= most
        assert set(folded.final.values()) <= folded.written(add=True) <= folded.written(add=False)


@given(worlds())
def test_after_the_last_microbatch_nothing_is_added_that_its_gradient_cannot_be_written_with(
    world: tuple[int, list[int]],
) -> None:
    total, boundaries = world
    for start, stop in pairwise(boundaries):
        for step in fold(start, stop, total).steps[-1:]:
            assert len(step.additions) <= 1


def test_a_node_s_own_sum() -> None:
    leaves = {Node(0, k): k for k in range(5)}
    assert expression(5, leaves, Node(1, 1)) == (2, 3)
    assert expression(5, leaves, Node(2, 1)) == 4, "what has no right side is passed through"
    assert expression(5, leaves) == (((0, 1), (2, 3)), 4)
