"""Workers whose first calls are timed, beside what they have computed for: where that is too little, it is said."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Protocol

import torch

from unisono.scripts.pytorch.request import Answer, Gradients, Request
from unisono.scripts.pytorch.world import Computer
from unisono.scripts.said import say
from unisono.scripts.worth import too_small

_MEASURED = range(17, 25)
"""Calls: some of the earlier ones are probed, that is, computed once more."""


class Workers(Computer, Protocol):
    """Who knows how long its processes have computed."""

    def spent(self) -> dict[int, float]:
        """Each worker's seconds at microbatches so far."""


class Timed:
    """Computes calls by workers, and times some.

    Args:
        workers: they.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._calls, self._shared, self._most = 0, 0.0, 0
        self._spent: dict[int, float] = {}

    def forward(
        self, request: Request, leaves: Sequence[Sequence[Any]], buffers: Sequence[torch.Tensor]
    ) -> list[Answer]:
        """See `Computer`."""
        if request.keeps:
            self._calls, self._most = self._calls + 1, max(self._most, request.samples)
            self._look()
        began = perf_counter()
        answers = self._workers.forward(request, leaves, buffers)
        self._shared += perf_counter() - began
        return answers

    def backward(
        self, request: Request, gradients: Sequence[Sequence[torch.Tensor | None]], keep: bool
    ) -> Gradients:  # fmt: skip
        """See `Computer`."""
        began = perf_counter()
        found = self._workers.backward(request, gradients, keep)
        self._shared += perf_counter() - began
        return found

    def _look(self) -> None:
        if self._calls == _MEASURED.start:
            self._spent, self._shared = self._workers.spent(), 0.0
        elif self._calls == _MEASURED.stop:
            spent = self._workers.spent()
            told = too_small(
                len(_MEASURED), self._shared, sum(spent.values()) - sum(self._spent.values()), self._most + 1
            )
            if told and spent.keys() == self._spent.keys():  # nobody has been replaced
                say(told)

    def is_here(self, request: Request) -> bool:
        """See `Computer`."""
        return self._workers.is_here(request)

    def drop(self, call: int) -> None:
        """See `Computer`."""
        self._workers.drop(call)

    def resize(self, workers: int) -> None:
        """See `Computer`."""
        self._workers.resize(workers)

    def processes(self) -> list[int]:
        """See `Computer`."""
        return self._workers.processes()

    def close(self) -> None:
        """See `Computer`."""
        self._workers.close()
