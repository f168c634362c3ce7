"""Consecutive units that are computed, and taken back, in one go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unisono.frameworks.protocol import Measured
from unisono.frameworks.pytorch.passes import Passes
from unisono.frameworks.pytorch.stages.operations import BufferPlace
from unisono.frameworks.pytorch.stages.travel import packed, unpacked


class Flowing(NamedTuple):
    """Values at a boundary: their tensors, and the nest that they lie in (None: each is a value of its own)."""

    tensors: Sequence[Tensor]
    nest: Any = None


class Computed(NamedTuple):
    """A segment's forward pass: what it started from, what it gives, and the loss of the last one."""

    leaves: list[Tensor]
    given: Flowing
    total: Tensor | None = None
    measured: Measured | None = None


@contextlib.contextmanager
def _own_buffers(places: Sequence[BufferPlace]) -> Iterator[None]:
    """A block in which the buffers are copies; what it leaves in them goes to the model's own.

    The backward pass may need what lies in a buffer, and then other microbatches have been there.
    """
    held = [(place, place.tensor) for place in places]
    copies = {id(tensor): tensor.clone() for _, tensor in held}
    for place, tensor in held:
        place.holder[place.key] = copies[id(tensor)]
    try:
        yield
    finally:
        with torch.no_grad():
            for place, tensor in held:
                tensor.copy_(place.tensor)
                place.holder[place.key] = tensor


@dataclass(frozen=True)
class Segment:
    """The program of one or more units.

    Attributes:
        passes: the adapter's.
        replay: (inputs, *values) → values, or the model's outputs from the last segment.
        nested: values are nests, as in a job's own stages.
        last: the loss follows.
        cached_casts: autocast keeps casts of leaves, so that what was no leaf in the uncut model must not be one here.
        parameters: the numbers of the trained parameters that it uses.
        owned: those of them that no earlier segment uses.
        written: the buffers that it changes.
        draws: the generators that it moves.
    """

    passes: Passes
    replay: Callable[..., Any]
    nested: bool
    last: bool
    cached_casts: bool
    parameters: tuple[int, ...]
    owned: frozenset[int]
    written: tuple[BufferPlace, ...]
    draws: tuple[str, ...]

    def forward(self, batch: Any, samples: int, flowing: Flowing) -> Computed:
        """Compute; whatever needs a gradient starts a graph of its own."""
        leaves = [t.detach().requires_grad_() if t.requires_grad else t for t in flowing.tensors]
        values: Sequence[Any] = leaves
        elsewhere = self.passes.trained.difference(self.parameters)
        with self.passes.explained(batch[0], elsewhere), self.passes.autocast(), _own_buffers(self.written):
            if self.cached_casts:
                values = [t.view_as(t) if t.requires_grad and t.dtype == torch.float32 else t for t in leaves]
            if flowing.nest is not None:
                values = unpacked(flowing.nest, iter(values))
            result = self.replay(batch[0], *values)
            if self.last:
                total, weight = self.passes.loss(result, batch[1], samples)
        if self.last:
            return Computed(leaves, Flowing(()), total, self.passes.measured(total, weight, result, batch[1]))
        if not self.nested:
            return Computed(leaves, Flowing(result))
        tensors: list[Tensor] = []
        nest = packed(result, tensors)[1]
        return Computed(leaves, Flowing(tensors, ["tuple", nest]))

    def backward(
        self,
        computed: Computed,
        gradients: Sequence[Tensor | None],
        partial: dict[int, Tensor],
        into: Any,
        add: bool = False,
    ) -> list[Tensor | None]:
        """Take it back.

        Args:
            computed: its forward pass.
            gradients: of those of the given tensors that need one.
            partial: what later segments have left of shared parameters' gradients; this one's share is added.
            into: where the gradients of its own parameters go.
            add: see `Adapter.gradient`.

        Returns:
            The gradients of those of its first tensors that need one.
        """
        destinations, used = self.passes.into, self.passes.used
        needing = [tensor for tensor in computed.given.tensors if tensor.requires_grad]
        pairs = [(root, g) for root, g in zip(needing, gradients, strict=True) if g is not None]
        for number in self.parameters:
            parameter = self.passes.parameters[number]
            # What later segments have left comes first in the sum: autograd starts with its roots.
            if number in partial:
                pairs.append((parameter, partial.pop(number)))
            destinations[number] = into[number] if number in self.owned else torch.empty_like(parameter)
            used[number], self.passes.adding[number] = 0, add and number in self.owned
        if computed.total is not None and computed.total.requires_grad:
            computed.total.backward()  # type: ignore[no-untyped-call]
        elif pairs:
            torch.autograd.backward([root for root, _ in pairs], [gradient for _, gradient in pairs])
        for number in self.parameters:
            destination = destinations[number]
            if used[number] and number not in self.owned and destination is not None:
                partial[number] = destination
            destinations[number] = None
        return [leaf.grad for leaf in computed.leaves if leaf.requires_grad]
