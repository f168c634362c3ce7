"""The backward pass of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from unisono.errors import UsageError
from unisono.scripts.pytorch.joins import Join, shares
from unisono.scripts.pytorch.request import Request
from unisono.scripts.pytorch.values import add
from unisono.scripts.pytorch.world import World
from unisono.scripts.tree_sums import summed


@dataclass(eq=False)
class CallGraph:
    """Takes gradients of a call's outputs to its parameters and inputs.

    Args:
        world: who computes.
        request: the call.
        joins: how each output that is a tensor was joined.
        shapes: of each microbatch's outputs.
        weights: each microbatch's share of the samples.
        cut: which arguments were cut, and along which dimension.
        wanting: which arguments want gradients.
    """

    world: World
    request: Request
    joins: Sequence[Join]
    shapes: Sequence[Sequence[torch.Size]]
    weights: Sequence[float]
    cut: Mapping[int, int]
    wanting: Sequence[int]
    _used: list[int] = field(init=False)
    _parameters: list[torch.Tensor] = field(init=False)
    _versions: list[int] = field(init=False)
    _is_done: bool = False

    def __post_init__(self) -> None:
        self._used = self.world.parts.used_by(self.request.target)
        self._parameters = [self.world.parts.parameters[number] for number in self._used]
        self._versions = [parameter._version for parameter in self._parameters]

    def sources(self, leaves: Sequence[Any]) -> list[torch.Tensor]:
        """What gets gradients: arguments, then parameters.

        Args:
            leaves: the call's arguments.
        """
        return [leaves[place] for place in self.wanting] + self._parameters

    def __call__(self, gradients: Sequence[torch.Tensor | None], keep: bool) -> list[torch.Tensor | None]:
        """The gradients of the sources.

        Args:
            gradients: of the outputs.
            keep: whether the graph is kept.

        Raises:
            UsageError: a parameter was changed since the call.
            RuntimeError: the graph is gone, as in PyTorch.
        """
        if self._is_done:
            raise RuntimeError(
                "Trying to backward through the graph of a parallel call a second time. Specify retain_graph=True in "
                "the first backward pass if you need two."
            )
        if self._versions != [parameter._version for parameter in self._parameters]:
            raise UsageError(
                "parameters stay as they are between a parallel call and its backward pass; one was changed in place. "
                "Call optimizer.step() after backward(), or call the model again."
            )
        self._is_done = not keep
        with torch.inference_mode(False), torch.no_grad():
            each = [
                shares(join, gradient, [shapes[place] for shapes in self.shapes], self.weights)
                for place, (join, gradient) in enumerate(zip(self.joins, gradients, strict=True))
            ]
            pieces = [[output[number] for output in each] for number in range(len(self.request.pieces))]
            found = self.world.backward(self.request, pieces, keep)
            inputs = [
                self._of_input(place, [of[number] for of in found.inputs]) for number, place in enumerate(self.wanting)
            ]
        self.world.after_backward()
        return [*inputs, *(found.parameters[number] for number in self._used)]

    def _of_input(self, place: int, parts: list[torch.Tensor | None]) -> torch.Tensor | None:
        """An argument's gradient: of a cut one piece after another, else the sum."""
        if place not in self.cut or len(parts) == 1:
            return summed(parts, add)
        dim, known = self.cut[place], [part for part in parts if part is not None]
        if not known:
            return None
        if len(known) < len(parts):
            sizes = [len(piece) for piece in self.request.pieces]
            like = known[0]
            parts = [
                like.new_zeros([*like.shape[:dim], size, *like.shape[dim + 1 :]]) if part is None else part
                for part, size in zip(parts, sizes, strict=True)
            ]
        return torch.cat([part for part in parts if part is not None], dim)
