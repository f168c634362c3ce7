"""Random numbers in a cut model: which blocks draw them, and how a stage catches up with those before it.

No call of MXNet reads or sets its generator's state, so the state can't travel with the activations. How far a draw
moves the generator depends on shapes alone: a stage that draws first lets the earlier blocks that draw do so once
more, on zeros of the shapes that they had.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import mxnet
import numpy as np

from unisono.frameworks.mxnet.seeding import seed_everything
from unisono.frameworks.mxnet.stages.pieces import Piece, Value, filled, run

Draw = list[Any]
"""A unit that has drawn, as JSON holds it: [its index, the form of what it took, the shape and dtype of each array]."""


def found_draws(pieces: Sequence[Piece], value: Value, finish: Callable[[Any], Any]) -> tuple[tuple[bool, ...], bool]:
    """Which blocks move a generator on some value, and whether the loss and metrics may do so.

    Args:
        pieces: the model.
        value: what the first block takes.
        finish: the loss and the metrics of the outputs.
    """
    seed_everything(0)
    unmoved = _next_numbers()
    draws = []
    for piece in pieces:
        seed_everything(0)
        value = run(piece, value)
        draws.append(_next_numbers() != unmoved)
    seed_everything(0)
    with contextlib.suppress(Exception):  # left to fail at its own place, in a microbatch
        finish(value.built(value.arrays))
        return tuple(draws), _next_numbers() != unmoved
    return tuple(draws), True


def _next_numbers() -> tuple[Any, ...]:
    """What the generators of Python, NumPy and MXNet (it has one for samplers, one for permutations) give next."""
    state = np.random.get_state()
    permuted = mxnet.nd.random.shuffle(mxnet.nd.arange(64)).asnumpy()
    return (
        random.getstate(), state[1].tobytes(), state[2:],  # type: ignore[index]
        mxnet.nd.random.uniform(shape=(8,)).asnumpy().tobytes(), permuted.tobytes(),
    )  # fmt: skip


def drawn(index: int, value: Value) -> Draw:
    """What is told of a unit that draws, given what it takes."""
    return [index, value.form, [[list(array.shape), np.dtype(array.dtype).name] for array in value.arrays]]


def draw_again(pieces: Sequence[Piece], draws: Sequence[Draw]) -> None:
    """Move this process's generators as these units have moved them."""
    for index, form, arrays in draws:
        made = [filled(0, shape, dtype) for shape, dtype in arrays]
        run(pieces[index], Value(made, form, [False] * len(made)))
