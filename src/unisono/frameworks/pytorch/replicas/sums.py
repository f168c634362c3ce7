"""A replica's partial sums on its device: of gradients, and of what microbatches have left in the model's buffers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unisono.frameworks.pytorch.replicas.exchange import tree_sum
from unisono.gradients.exchanged import Shares
from unisono.gradients.regions import Region
from unisono.gradients.tree import FoldStep, expression, fold

AVERAGED = (torch.float16, torch.float32, torch.float64)
"""Dtypes of buffers that are averaged over samples; of others the first microbatch's are kept."""


class PartialSums:
    """The partial sums of one process, by buffer (see `gradients.tree.fold`).

    Args:
        regions: of the trained parameters.
        count: of all parameters.
        buffers: the model's, as a round begins with them.
        device: where.

    Attributes:
        firsts: the model's buffers after the first microbatch, of those that are not averaged.
    """

    def __init__(self, regions: Sequence[Region], count: int, buffers: Sequence[Tensor], device: torch.device) -> None:
        self._regions, self._count, self._device = regions, count, device
        sizes = [buffer.numel() if buffer.dtype in AVERAGED else 0 for buffer in buffers]
        self._sizes = [*sizes, len(buffers)]
        self._vectors: list[list[Tensor]] = []
        self._into: list[list[Tensor | None]] = []
        self.firsts = {n: b.clone() for n, b in enumerate(buffers) if b.dtype not in AVERAGED}

    @property
    def left(self) -> list[Tensor]:
        """A tensor for each vector (the regions' gradients, then the buffers' sums, if there are any), where the sums
        of all microbatches may be left: partial sums that are nodes, or nothing."""
        return self._held(0)

    def _held(self, index: int) -> list[Tensor]:
        while len(self._vectors) <= index:
            vectors = [
                torch.zeros(region.length, dtype=getattr(torch, region.dtype), device=self._device)
                for region in self._regions
            ]
            into: list[Tensor | None] = [None] * self._count
            for region, vector in zip(self._regions, vectors, strict=True):
                for parameter in region.parameters:
                    into[parameter.number] = vector[parameter.offset : parameter.end].view(parameter.shape)
            if self._sizes[-1]:
                vectors.append(torch.zeros(sum(self._sizes), dtype=torch.float64, device=self._device))
            self._vectors.append(vectors)
            self._into.append(into)
        return self._vectors[index]

    def destination(self, step: FoldStep) -> list[Tensor | None]:
        """Where a microbatch's gradient goes, by parameter number."""
        self._held(step.buffer)
        return self._into[step.buffer]

    def keep_buffers(self, step: FoldStep, found: Sequence[Tensor], base: Sequence[Tensor], samples: int) -> None:
        """Leave n·b of the buffers, whether they changed, and the first microbatch's others.

        Args:
            step: the microbatch.
            found: the buffers after its forward pass.
            base: those before it.
            samples: of the microbatch.
        """
        if not base:
            return
        *parts, changed = torch.split(self._held(step.buffer)[-1], self._sizes)
        for number, (value, before, part) in enumerate(zip(found, base, parts, strict=True)):
            changed[number] = _bits(value).ne(_bits(before)).any()
            if value.dtype in AVERAGED:
                part.copy_(value.reshape(-1)).mul_(samples)
            elif step.microbatch == 0:
                self.firsts[number].copy_(value)

    def fold(self, step: FoldStep) -> None:
        """Do a microbatch's additions."""
        for into, other in step.additions:
            for target, addend in zip(self._held(into), self._held(other), strict=True):
                target.add_(addend)

    def nodes(self, run: range, shares: Shares, rank: int) -> list[list[Tensor]]:
        """This rank's nodes of each vector.

        Args:
            run: its microbatches.
            shares: of all ranks.
            rank: which one it is.
        """
        start, stop = min(run.start, shares.total), min(run.stop, shares.total)
        final = {node: (index,) for node, index in fold(start, stop, shares.total).final.items()}
        trees = [expression(shares.total, final, node) for node in shares.nodes[rank]]
        return [
            [tree_sum(tree, lambda index, vector=vector: self._held(index)[vector]) for tree in trees]
            for vector in range(len(self.left))
        ]

    def buffers(self, sums: Tensor, base: Sequence[Tensor], samples: int) -> list[Tensor]:
        """What the round leaves in the buffers: of those that changed Σ nₘ·bₘ / Σ nₘ, or the first microbatch's.

        Args:
            sums: the buffers' sums over all microbatches.
            base: those that the round began with.
            samples: of the round.
        """
        *parts, changed = torch.split(sums, self._sizes)
        count = torch.full((), float(samples), dtype=torch.float64, device=self._device)
        left = []
        for number, (before, part) in enumerate(zip(base, parts, strict=True)):
            if before.dtype in AVERAGED:
                new = (part / count).to(before.dtype).view(before.shape)
            else:
                new = self.firsts[number]
            left.append(torch.where(changed[number] != 0, new, before))
        return left


def _bits(values: Tensor) -> Tensor:
    """Its bytes: a NaN is what it was."""
    return values.detach().contiguous().reshape(-1).view(torch.uint8)
