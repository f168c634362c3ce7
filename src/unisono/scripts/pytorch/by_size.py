"""Small calls computed in the script, larger ones by workers: the same bits, whoever computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from unisono.scripts.pytorch.request import Answer, Gradients, Request
from unisono.scripts.pytorch.world import Computer


class BySize:
    """Computes a call, and its backward pass, where its number of samples says.

    Args:
        smallest: samples of the smallest call for workers.
        here: computes those that are smaller.
        workers: compute the others.
    """

    def __init__(self, smallest: int, here: Computer, workers: Computer) -> None:
        self._smallest, self._here, self._workers = smallest, here, workers

    def _of(self, request: Request) -> Computer:
        return self._here if request.samples < self._smallest else self._workers

    def forward(
        self, request: Request, leaves: Sequence[Sequence[Any]], buffers: Sequence[torch.Tensor]
    ) -> list[Answer]:
        """See `Computer`."""
        return self._of(request).forward(request, leaves, buffers)

    def backward(
        self, request: Request, gradients: Sequence[Sequence[torch.Tensor | None]], keep: bool
    ) -> Gradients:  # fmt: skip
        """See `Computer`."""
        return self._of(request).backward(request, gradients, keep)

    def is_here(self, request: Request) -> bool:
        """See `Computer`."""
        return self._of(request).is_here(request)

    def drop(self, call: int) -> None:
        """See `Computer`."""
        self._here.drop(call)
        self._workers.drop(call)

    def resize(self, workers: int) -> None:
        """See `Computer`."""
        self._workers.resize(workers)

    def processes(self) -> list[int]:
        """See `Computer`."""
        return self._workers.processes()

    def close(self) -> None:
        """See `Computer`."""
        self._here.close()
        self._workers.close()
