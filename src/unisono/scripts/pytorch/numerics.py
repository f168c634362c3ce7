"""Settings of PyTorch that change what an operation gives: they travel with each call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Numerics:
    """Settings of a process.

    Attributes:
        autocast: its dtype on the CPU, None where it is off.
        default: the dtype of new tensors.
        matmul: "highest", "high" or "medium".
        deterministic, only_warned: whether algorithms are, and whether others are refused.
    """

    autocast: torch.dtype | None
    default: torch.dtype
    matmul: str
    deterministic: bool
    only_warned: bool

    @staticmethod
    def here() -> Numerics:
        """Those of this process, now."""
        return Numerics(
            torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None,
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )

    def _set(self) -> None:
        torch.set_default_dtype(self.default)
        torch.set_float32_matmul_precision(self.matmul)
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.only_warned)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A block that computes with them."""
        before = Numerics.here()
        autocast = torch.autocast("cpu", self.autocast or torch.bfloat16, self.autocast is not None)
        try:
            if before != self:
                self._set()
            with autocast:
                yield
        finally:
            if before != self:
                before._set()
