"""Settings of PyTorch that change what an operation gives: they travel with each call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.backends import cuda, mkldnn  # which attention is taken is asked of "cuda", on the CPU too

ATTENTION: Sequence[tuple[Callable[[], bool], Callable[[bool], None]]] = (
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    (cuda.math_sdp_enabled, cuda.enable_math_sdp),
)

SMALLEST = sys.float_info.min
"""The smallest number that is not denormal."""


@dataclass(frozen=True)
class Numerics:
    """Settings of a process.

    Attributes:
        autocast: its dtype on the CPU, None where it is off.
        default: the dtype of new tensors.
        matmul: "highest", "high" or "medium".
        deterministic, only_warned: whether algorithms are, and whether others are refused.
        mkldnn: whether its kernels are used.
        attention: whether its flash, memory-efficient and plain kernels are.
        flushed: whether denormal numbers are zero.
    """

    autocast: torch.dtype | None
    default: torch.dtype
    matmul: str
    deterministic: bool
    only_warned: bool
    mkldnn: bool
    attention: tuple[bool, ...]
    flushed: bool

    @staticmethod
    def here() -> Numerics:
        """Those of this process, now."""
        return Numerics(
            torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None,
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            bool(mkldnn.enabled),
            tuple(is_enabled() for is_enabled, _ in ATTENTION),
            SMALLEST / 2 == 0.0,  # PyTorch does not say it
        )

    def _set(self) -> None:
        torch.set_default_dtype(self.default)
        torch.set_float32_matmul_precision(self.matmul)
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.only_warned)
        mkldnn.enabled = self.mkldnn  # type: ignore[assignment]
        for (_, enable), wanted in zip(ATTENTION, self.attention, strict=True):
            enable(wanted)
        torch.set_flush_denormal(self.flushed)

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
