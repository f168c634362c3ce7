"""What a host adds up, over its own pipes' sums and what came from others, is the one tree's sum."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sums import along
from unisono.gradients.hosts import host_shares, nodes_of, swapped
from unisono.gradients.tree import Node, expression, root
from unisono.runtime.rules.folding import ALL_HOSTS, folding
from unisono.runtime.rules.plan import Plan, even


class Sum:
    """A sum that remembers how it was formed.

    Args:
        text: how.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __add__(self, other: Sum) -> Sum:
        return Sum(f"({self.text}+{other.text})")


def sum_of(node: Node, total: int) -> Any:
    """A node's sum over microbatches."""
    return along(expression(total, {Node(0, k): (k,) for k in range(total)}, node), lambda k: Sum(str(k)))


def left_by(plan: Plan, total: int) -> dict[tuple[int, int], Any]:
    """What the pipes of a host leave."""
    left: dict[tuple[int, int], Any] = {}
    for pipe in range(plan.pipes):
        for step in folding(plan, pipe, total).steps:
            left[pipe, step.buffer] = Sum(str(step.microbatch))
            for into, other in step.additions:
                left[pipe, into] += left[pipe, other]
    return left


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(3, 16), st.integers(0, 3))
def test_every_host_forms_the_sum_of_one(workers: list[int], microbatches: int, empty: int) -> None:
    total = max(1, microbatches - empty)
    shares = host_shares(microbatches, workers)
    nodes, several = nodes_of(shares, total), len(workers) > 1
    for host, count in enumerate(workers):
        start, stop = shares[host : host + 2]
        boundaries = tuple(start + boundary for boundary in even(stop - start, count))
        plan = Plan(0, boundaries, tuple(range(count)), hosts=shares if several else ())
        sums = left_by(plan, total)
        sums[ALL_HOSTS, 0] = sum_of(nodes[1 - host][0] if several and swapped(nodes) else root(total), total)
        trees = folding(plan, 0, total)
        found = along(trees.gradients, lambda pipe, buffer, sums=sums: sums[pipe, buffer])
        assert found.text == sum_of(root(total), total).text
        assert trees.buffers == ((ALL_HOSTS, 0) if several else trees.gradients)


def test_slots_that_fill_no_pipe_fold_nothing_and_update_by_the_same_sum() -> None:
    plan = Plan(0, (0, 2, 4), (0, 1, 2, 3, 4), stages=2)
    assert folding(plan, 2, 4).steps == ()
    assert folding(plan, 1, 4).steps
    assert folding(plan, 2, 4).gradients == folding(plan, 0, 4).gradients == ((0, 0), (1, 0))
