"""How a process computes: it travels with each call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from unisono.frameworks.pytorch.numerics import settings, settle


@dataclass(frozen=True)
class Numerics:
    """What changes the results of operations.

    Attributes:
        autocast: its dtype on the CPU, None where it is off.
        only_warned: whether operations without a deterministic algorithm are only warned of.
        settings: of the process.
    """

    autocast: torch.dtype | None
    only_warned: bool
    settings: Mapping[str, Any]

    @staticmethod
    def here() -> Numerics:
        """Those of this process, now."""
        return Numerics(
            torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None,
            torch.is_deterministic_algorithms_warn_only_enabled(),
            settings(),
        )

    def _set(self) -> None:
        settle(self.settings)
        torch.use_deterministic_algorithms(self.settings["deterministic"], warn_only=self.only_warned)

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
