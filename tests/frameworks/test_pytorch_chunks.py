"""Updates of single chunks by torch's optimizers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed in this environment", allow_module_level=True)

import torch

from unisono.frameworks.pytorch import optimizers
from unisono.frameworks.pytorch.chunks import TorchChunkUpdate, Work
from unisono.frameworks.pytorch.optimizers import ELEMENTWISE
from unisono.frameworks.scratch import Scratch
from unisono.gradients.regions import Chunk, Piece, Region

THOROUGH = pytest.mark.thorough
STEPS = 4
KINDS: list[Any] = sorted(ELEMENTWISE, key=lambda kind: kind.__name__)
APART, JOINED = (96, 5, 64), (192, 64, 64, 5, 64)
"""Sizes of parameters between which there is a gap, or that are not a multiple of 64, and others."""


class Chunked:
    """A model of vectors whose parameters one optimizer updates, in two chunks."""

    def __init__(
        self, make: Callable[[list[torch.Tensor]], torch.optim.Optimizer], sizes: Sequence[int] = APART
    ) -> None:
        self.values = [torch.linspace(0.5, 2, size, requires_grad=True) for size in sizes]
        self.master = optimizers.prepare(make(self.values))[0][0]
        kind = optimizers.kind_of(self.master)
        assert kind == "elementwise"
        found = optimizers.state_of(self.master, kind, {id(value): n for n, value in enumerate(self.values)})
        spec = found[0]
        region = Region.pack(0, "float32", 0, kind, [(n, "", (size,)) for n, size in enumerate(sizes)])
        self.places = region.parameters
        self.parameters, self.gradients = (np.zeros(region.length, np.float32) for _ in range(2))
        self.scalars = np.zeros((2, len(sizes), 1 + len(spec.scalars)))
        state = {name: np.zeros(region.length, np.float32) for name in spec.vectors}
        for place, value in zip(region.parameters, self.values, strict=True):
            self.parameters[place.offset : place.end] = value.detach().numpy()
        for parameter, held in optimizers.initial_state(self.master):
            place = next(p for p, value in zip(region.parameters, self.values, strict=True) if value is parameter)
            for name in spec.vectors:
                state[name][place.offset : place.end] = held[name].numpy()
            self.scalars[:, place.number] = [1.0, *(float(held[name]) for name in spec.scalars)]
        chunks = [
            Chunk(0, (Piece(self.places[0], 0, 64),), 0),
            Chunk(0, (Piece(self.places[0], 64, sizes[0]), *(Piece(p, 0, p.size) for p in self.places[1:])), 0),
        ]
        self.updates = []
        for chunk in chunks:
            span = slice(chunk.start, chunk.stop)
            views = {
                piece.parameter.number: {
                    name: vector[piece.parameter.offset + piece.start : piece.parameter.offset + piece.stop]
                    for name, vector in state.items()
                }
                for piece in chunk.pieces
            }
            scratch = Scratch(region, chunk, self.parameters[span], self.gradients[span], views)
            work = Work(self.master, found[1], scratch, dict.fromkeys(range(len(sizes)), 0))
            self.updates.append(TorchChunkUpdate(work))

    def step(self, number: int, unused: int | None = None) -> None:
        """Step the chunks, and leave the same gradients to the whole; one parameter may have none."""
        used = np.ones(len(self.values), np.uint8)
        for place, value in zip(self.places, self.values, strict=True):
            used[place.number] = place.number != unused
            gradient = torch.linspace(-1, 1 + number, value.numel())
            value.grad = gradient if used[place.number] else None
            self.gradients[place.offset : place.end] = gradient.numpy()
        for update in self.updates:
            update.step(self.scalars[number & 1], self.scalars[(number + 1) & 1], used)

    def found(self) -> list[Any]:
        return [self.parameters[place.offset : place.end] for place in self.places]


@pytest.mark.parametrize("foreach", [None, True])
@pytest.mark.parametrize("sizes", [APART, JOINED])
@pytest.mark.parametrize(
    "unused", [pytest.param(None, id="all used", marks=THOROUGH), pytest.param(2, id="one unused at times")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_get_the_bits_of_the_whole_step(
    kind: Any, unused: int | None, sizes: Sequence[int], foreach: bool | None
) -> None:
    chunked = Chunked(lambda values: kind(values, lr=0.1, foreach=foreach), sizes)
    for number in range(STEPS):
        chunked.step(number, unused if number in (1, 2) else None)
        chunked.master.step()
        for found, value in zip(chunked.found(), chunked.values, strict=True):
            np.testing.assert_array_equal(found, value.detach().numpy())


@THOROUGH
@given(
    st.sampled_from(KINDS),
    st.lists(st.one_of(st.integers(1, 3).map(lambda blocks: 64 * blocks), st.integers(1, 200)), min_size=1, max_size=6),
)
def test_neighbours_of_any_size_get_the_bits_of_each_alone(kind: Any, rest: list[int]) -> None:
    chunked = Chunked(lambda values: kind(values, lr=0.1), (128, *rest))
    for number in range(2):
        chunked.step(number)
        chunked.master.step()
    for found, value in zip(chunked.found(), chunked.values, strict=True):
        np.testing.assert_array_equal(found, value.detach().numpy())


def test_a_torch_without_muon_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch 2.8 has none."""
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    spec = importlib.util.spec_from_file_location("as_with_2_8", str(optimizers.__file__))
    assert spec is not None
    assert spec.loader is not None
    older = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(older)
    assert {torch.optim.Adafactor} == older.PER_TENSOR
    adafactor = torch.optim.Adafactor([torch.zeros(3, requires_grad=True)])
    assert older.kind_of(older.prepare(adafactor)[0][0]) == "tensor"
