"""Norms: a partial a block of 4,096 elements, added in the order of parameters and blocks."""

from __future__ import annotations

import numpy as np
import pytest

from unisono.gradients.norms import ROW, NormTable, block_sums, clip_coefficient, total_norm
from unisono.gradients.regions import BLOCK, CHUNK, Kind, Piece, Region, slices


def test_sizes_that_are_part_of_the_result_stay() -> None:
    """Other blocks give other norms, and other bits: docs/determinism.md names them."""
    assert (BLOCK, ROW) == (4096, 256)
    assert CHUNK % BLOCK == 0


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 5])
def test_each_block_has_its_sum_of_squares(size: int) -> None:
    values = np.arange(size, dtype=np.float64) % 7
    out = np.full(-(-size // BLOCK) + 1, -1.0)
    block_sums(values, out)
    assert out.tolist() == [float((values[at : at + BLOCK] ** 2).sum()) for at in range(0, size, BLOCK)] + [-1.0]


GOLDEN = {
    (1000, "float32"): ["0x1.4d66c80000000p+6"],
    (4095, "float32"): ["0x1.5555220000000p+8"],
    (10000, "float32"): ["0x1.5574580000000p+8", "0x1.553f320000000p+8", "0x1.2d6d500000000p+7"],
    (10000, "float64"): ["0x1.557459631c36fp+8", "0x1.553f32b343d60p+8", "0x1.2d6d506970437p+7"],
}


@pytest.mark.parametrize(("size", "dtype"), GOLDEN)
def test_a_block_s_bits_stay(size: int, dtype: str) -> None:
    """Other additions give other bits of every job with `clip_norm`."""
    values = ((np.arange(size) * 2654435761 % 2**32) / 2**32 - 0.5).astype(dtype)
    out = np.empty(-(-size // BLOCK))
    block_sums(values, out)
    assert [number.hex() for number in out.tolist()] == GOLDEN[size, dtype]


def test_partials_lie_in_the_order_of_numbers_over_the_whole_model() -> None:
    regions = [
        Region.pack(0, "float32", 0, "elementwise", [(3, "d", (2 * BLOCK + 1,)), (0, "a", (5,))]),
        Region.pack(1, "float64", 0, "tensor", [(1, "b", (BLOCK,))]),
    ]
    table = NormTable(regions)
    assert table.length == 5
    parameters = {parameter.number: parameter for region in regions for parameter in region.parameters}
    whole = {number: table.span(Piece(parameter, 0, parameter.size)) for number, parameter in parameters.items()}
    assert whole == {0: slice(0, 1), 1: slice(1, 2), 3: slice(2, 5)}
    assert table.span(Piece(parameters[3], BLOCK, 2 * BLOCK + 1)) == slice(3, 5)


def test_a_gradient_is_scaled_to_the_limit_and_never_up() -> None:
    assert clip_coefficient(2.0, 1.0) == 1.0 / (2.0 + 1e-6)  # as torch.nn.utils.clip_grad_norm_ has it
    assert clip_coefficient(0.0, 1.0) == 1.0
    assert clip_coefficient(0.0, 1e-7) == pytest.approx(0.1, rel=1e-12)
    assert total_norm(np.array([4.0, 16.0, 16.0])) == 6.0
    assert total_norm(np.empty(0)) == 0.0


@pytest.mark.parametrize(("kind", "chunks"), [("elementwise", [64, 64, 2]), ("tensor", [130]), ("whole", [130])])
def test_what_is_undone_in_one_go_is_no_larger_than_it_must_be(kind: Kind, chunks: list[int]) -> None:
    region = Region.pack(0, "float32", 0, kind, [(0, "w", (130, BLOCK))])
    (part,) = slices([region], 1)
    assert [(chunk.stop - chunk.start) // BLOCK for chunk in part] == chunks
    assert {chunk.region for chunk in part} == {0}


def test_a_region_of_nothing_is_somebody_s() -> None:
    regions = [
        Region.pack(0, "float32", 0, "elementwise", [(0, "w", (3,))]),
        Region.pack(1, "float32", 1, "whole", [(1, "empty", (0,))]),
    ]
    for slots in (1, 2, 3):
        assert [chunk.region for part in slices(regions, slots) for chunk in part] == [0, 1]
        assert [len(part) for part in slices(regions[1:], slots)] == [1, 0, 0][:slots]
    assert slices([Region.pack(0, "float32", 0, "tensor", [(0, "empty", (0,))])], 2) == [[], []]


def test_not_even_one_element_more_than_that() -> None:
    region = Region.pack(0, "float32", 0, "elementwise", [(0, "w", (2 * CHUNK,)), (1, "b", (1,)), (2, "c", (1,))])
    (part,) = slices([region], 1)
    assert [[piece.parameter.name for piece in chunk.pieces] for chunk in part] == [["w"], ["w"], ["b", "c"]]


def test_small_parameters_are_shared_out_too() -> None:
    region = Region.pack(0, "float32", 0, "elementwise", [(number, "", (1,)) for number in range(4)])
    for slots, numbers in ((2, [[0, 1], [2, 3]]), (4, [[0], [1], [2], [3]])):
        parts = slices([region], slots)
        assert [[p.parameter.number for chunk in part for p in chunk.pieces] for part in parts] == numbers


@pytest.mark.parametrize(("dtype", "second"), [("int8", 64), ("float16", 32), ("float32", 16), ("float64", 8)])
def test_each_parameter_begins_on_64_bytes(dtype: str, second: int) -> None:
    region = Region.pack(0, dtype, 0, "elementwise", [(0, "a", (1,)), (1, "b", (1,))])
    assert [parameter.offset for parameter in region.parameters] == [0, second]
    assert region.length == 2 * second
