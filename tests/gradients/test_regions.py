"""Slices are disjoint, cover everything, and cut where the optimizer allows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unisono.gradients.norms import NormTable, block_sums, clip_coefficient, total_norm
from unisono.gradients.regions import BLOCK, Region, slices

sizes = st.lists(st.integers(1, 3 * BLOCK + 5), min_size=1, max_size=6)


@given(sizes, st.integers(1, 9), st.sampled_from(["elementwise", "tensor", "whole"]))
def test_slices_partition_every_parameter(members: list[int], slots: int, kind: str) -> None:
    region = Region.pack(0, "float32", 0, kind, [(i, "", (n,)) for i, n in enumerate(members)])  # type: ignore[arg-type]
    seen = {number: np.zeros(size, int) for number, size in enumerate(members)}
    for part in slices([region], slots):
        for chunk in part:
            for piece in chunk.pieces:
                seen[piece.parameter.number][piece.start : piece.stop] += 1
                assert piece.start % BLOCK == 0
                if kind != "elementwise":
                    assert (piece.start, piece.stop) == (0, piece.parameter.size)
    assert all((counts == 1).all() for counts in seen.values())


@given(st.lists(st.tuples(st.integers(1, 2 * BLOCK + 5), st.integers(0, 2)), min_size=1), st.integers(3, 8))
def test_a_stage_is_updated_by_slots_that_are_done(members: list[tuple[int, int]], slots: int) -> None:
    sizes, stage_of = zip(*members, strict=True)
    region = Region.pack(0, "float32", 0, "elementwise", [(i, "", (n,)) for i, n in enumerate(sizes)])
    covered = np.zeros(region.length, int)
    for slot, part in enumerate(slices([region], slots, 3, stage_of)):
        assert [chunk.stage for chunk in part] == sorted((chunk.stage for chunk in part), reverse=True)
        for chunk in part:
            assert chunk.stage <= slot % 3
            assert {stage_of[piece.parameter.number] for piece in chunk.pieces} == {chunk.stage}
            covered[chunk.start : chunk.stop] += 1  # restoring a chunk touches nothing but its own elements
    assert covered.max() == 1
    assert all((covered[p.offset : p.end] == 1).all() for p in region.parameters)


def test_what_is_updated_whole_waits_for_the_first_stage() -> None:
    region = Region.pack(0, "float32", 0, "whole", [(0, "", (4,)), (1, "", (4,))])
    first, last = slices([region], 2, 2, [0, 1])
    assert [chunk.stage for chunk in first + last] == [0]


@given(sizes, st.integers(1, 9))
def test_slices_are_balanced_to_a_block(members: list[int], slots: int) -> None:
    region = Region.pack(0, "float32", 0, "elementwise", [(i, "", (n,)) for i, n in enumerate(members)])
    weights = [sum(p.stop - p.start for c in part for p in c.pieces) for part in slices([region], slots)]
    assert max(weights) <= sum(members) / slots + 2 * BLOCK


@given(st.integers(1, 5 * BLOCK), st.integers(1, 4), st.integers(0, 2**32))
def test_the_norm_does_not_depend_on_cuts(size: int, cut: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    region = Region.pack(0, "float32", 0, "elementwise", [(0, "", (size,))])
    table = NormTable([region])
    results = []
    for slots in (1, cut):
        partials = np.full(table.length, np.nan)
        for part in slices([region], slots):
            for chunk in part:
                for piece in chunk.pieces:
                    block_sums(values[piece.start : piece.stop], partials[table.span(piece)])
        results.append(total_norm(partials))
    assert results[0] == results[1]
    assert np.isclose(results[0], np.linalg.norm(values.astype(np.float64)), rtol=1e-5)


def test_clipping_never_scales_up() -> None:
    assert clip_coefficient(0.1, 1.0) == 1.0
    assert clip_coefficient(10.0, 1.0) < 0.1000001
