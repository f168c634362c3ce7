"""Every element is added up once, from each microbatch's gradient, in the tree's order."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unisono.gradients.exchanged import GRAIN, Cut, Shares
from unisono.gradients.tree import Node, expression, fold


@given(st.integers(0, 5000), st.sampled_from([2, 4, 8]), st.integers(1, 7), st.integers(1, 9000))
def test_every_element_is_owned_once(length: int, itemsize: int, ranks: int, most: int) -> None:
    cut = Cut.of(length, itemsize, ranks, most)
    places = [cut.place(span) for span in range(cut.spans)]
    assert [at for place in places for at in range(place.start, place.stop)] == list(range(length))
    assert all(place.stop - place.start <= cut.span for place in places)
    assert cut.share * itemsize % GRAIN == 0
    assert cut.span * itemsize <= max(most, ranks * GRAIN)
    assert all(place.start < place.stop for place in places), "nothing but padding"
    assert cut.spans * cut.span - length <= cut.spans * ranks * GRAIN // itemsize, "more padding than needed"


def evaluated(tree: Any, leaf: Any) -> Any:
    """A sum along nested pairs."""
    return leaf(tree) if len(tree) == 1 else np.float32(evaluated(tree[0], leaf) + evaluated(tree[1], leaf))


@st.composite
def shared(draw: Any) -> tuple[int, tuple[int, ...]]:
    total = draw(st.integers(1, 40))
    inner = draw(st.lists(st.integers(0, total + 3), max_size=5))
    return total, (0, *sorted(inner), total + draw(st.integers(0, 3)))


@given(shared(), st.integers(0, 2**32 - 1))
def test_any_boundaries_give_the_trees_sum(shares: tuple[int, tuple[int, ...]], seed: int) -> None:
    total, boundaries = shares
    values = np.random.default_rng(seed).standard_normal(total).astype(np.float32)
    leaves = {Node(0, number): (number,) for number in range(total)}
    found, held = Shares.of(boundaries, total), []
    for nodes, start, stop in zip(found.nodes, boundaries[:-1], boundaries[1:], strict=True):
        kept = fold(min(start, total), min(stop, total), total).final
        assert all(node.start in range(start, stop) for node in (*nodes, *kept))
        held += [evaluated(expression(total, leaves, node), lambda one: values[one[0]]) for node in nodes]
    assert len(held) == sum(found.counts)
    assert found.nodes[found.first][0].start == 0
    whole = evaluated(expression(total, leaves), lambda one: values[one[0]])
    assert evaluated(found.tree, lambda one: held[one[0]]) == whole
