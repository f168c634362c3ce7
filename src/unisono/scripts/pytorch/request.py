"""What is asked of whoever computes a call's microbatches, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import TreeSpec

from unisono.scripts.pytorch.numerics import Numerics


@dataclass(frozen=True)
class State:
    """What a script may have changed since the last call, besides the values of parameters and buffers.

    Attributes:
        training: each module's flag.
        requires_grad: each parameter's.
        attributes, globals: the plain ones that have ever changed.
        numerics: the process's settings.
    """

    training: tuple[bool, ...]
    requires_grad: tuple[bool, ...]
    attributes: dict[tuple[int, str], Any]
    globals: dict[tuple[int, str], Any]
    numerics: Numerics


@dataclass(frozen=True)
class Request:
    """A call, as far as its microbatches have it in common.

    Attributes:
        number: its own among all calls.
        target: which of the targets is called.
        spec: how its arguments are nested.
        pieces: the samples of each microbatch.
        draw: the one number that randomness follows from.
        grad: whether a backward pass may come.
        where: what is called and from which line, for messages.
        state: see `State`.
        keeps: whether its graphs are kept for that.
        steady: whether random operations give constants instead (see `Steady`).
    """

    number: int
    target: int
    spec: TreeSpec
    pieces: Sequence[range]
    draw: int
    grad: bool
    where: str
    state: State
    keeps: bool = True
    steady: bool = False

    @property
    def samples(self) -> int:
        """Of all microbatches."""
        return sum(map(len, self.pieces))


@dataclass
class Answer:
    """What a microbatch's forward pass gave.

    Attributes:
        leaves, spec: the outputs; tensors know no graph.
        with_grad: which of them a gradient flows back through.
        buffers: each one's value, None where it is unchanged.
    """

    leaves: list[Any]
    spec: TreeSpec
    with_grad: list[bool]
    buffers: list[torch.Tensor | None]


@dataclass
class Gradients:
    """What a backward pass gave.

    Attributes:
        parameters: each one's sum over the microbatches; None where none has used it.
        inputs: those of each microbatch's inputs that want one.
    """

    parameters: list[torch.Tensor | None]
    inputs: list[list[torch.Tensor | None]]
