"""A cut is accepted only if it changes no bit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from products import DESCRIPTION, Product, shape
from unisono.errors import UsageError
from unisono.partition.layout import Layout
from unisono.runtime.preparation.cutting import Cut, Probe, cut_in_stages
from unisono.runtime.state.layout import host_layout

PROBES = [Probe(1.0, 1), Probe(2.0, 1)]


def cut(model: Product, stages: int = 2, memory: int = 1 << 30, probes: Sequence[Probe] = PROBES) -> Cut:
    return cut_in_stages(model, host_layout(DESCRIPTION, shape(2, 1, 2)), Layout(1, stages), False, probes, 0, memory)


def test_equal_units_are_shared_out_evenly() -> None:
    found = cut(Product())
    assert found.cuts == (0, 2, 4)
    assert [[unit.name for unit in stage] for stage in found.stages] == [
        ["factors.0", "factors.1"], ["factors.2", "factors.3"],
    ]  # fmt: skip


@pytest.mark.parametrize("lie", ["the loss", "a metric", "the gradient of 'factors.3'", "the buffer 'seen'"])
def test_a_cut_that_changes_a_bit_is_refused(lie: str) -> None:
    with pytest.raises(UsageError, match=f"cut before 'factors.2', {lie} differs in a microbatch of 1 samples"):
        cut(Product(lie))


def test_a_probe_leaves_the_buffers_alone() -> None:
    model = Product()
    model.seen[:] = 3
    cut(model)
    assert model.seen == 3


def test_more_stages_than_units() -> None:
    with pytest.raises(UsageError, match="Ask for pipeline=4 or less"):
        cut(Product(), stages=5)


def test_activations_that_exceed_the_memory() -> None:
    with pytest.raises(UsageError, match=r"3\.1 MB of that in stage 1"):
        cut(Product(activation_bytes=1 << 20), memory=1 << 22)


def test_scarce_memory_moves_the_cut() -> None:
    assert cut(Product(activation_bytes=1 << 20), memory=(5 << 20) + (1 << 19)).cuts == (0, 1, 4)
