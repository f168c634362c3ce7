"""An update in place whose old values are copied first, in plain PyTorch: the least that lets somebody else do it again
where a process is killed amid it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

CHUNK = 1 << 18
"""Elements that are updated in one go, as in Unisono."""


def chunks(tensors: Iterable[Tensor | None]) -> Iterator[Tensor]:
    """Flat views of them, of so many elements at most."""
    for tensor in tensors:
        assert tensor is not None
        yield from tensor.detach().view(-1).split(CHUNK)


class KeepingOld:
    """Updates chunk by chunk.

    Args:
        optimizer: makes one for the parameters of a module.
        values: what is updated, as `chunks` gives it.
    """

    def __init__(self, optimizer: Callable[[nn.Module], torch.optim.Optimizer], values: Iterable[Tensor]) -> None:
        self._chunks = [nn.Parameter(chunk) for chunk in values]
        self._optimizers = [optimizer(nn.ParameterList([chunk])) for chunk in self._chunks]
        self._old = torch.empty(3, CHUNK)

    def step(self, gradients: Iterable[Tensor]) -> None:
        """One step; each chunk's gradient is asked for just before it is used."""
        for chunk, optimizer, gradient in zip(self._chunks, self._optimizers, gradients, strict=True):
            chunk.grad = gradient
            state = [value for value in optimizer.state[chunk].values() if value is not None and value.dim()]
            for old, value in zip(self._old, [chunk.detach(), *state], strict=False):
                old[: len(value)].copy_(value)
            optimizer.step()
