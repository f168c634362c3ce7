"""What a process may have set in PyTorch that changes what an operation gives: it goes where a job or a call goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import backends
from torch.backends import cuda, mha, mkldnn  # which attention is taken is asked of "cuda", on the CPU too

SMALLEST = sys.float_info.min
"""The smallest number that is not denormal."""

_ATTENTION: tuple[tuple[Callable[[], bool], Callable[[bool], None]], ...] = (
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    (cuda.math_sdp_enabled, cuda.enable_math_sdp),
    (mha.get_fastpath_enabled, mha.set_fastpath_enabled),
)

_PRECISIONS: list[Any] = [
    place
    for place in (backends, mkldnn, *(getattr(mkldnn, name, None) for name in ("matmul", "conv", "rnn")))
    if hasattr(place, "fp32_precision")  # since PyTorch 2.9
]


def _matmul() -> str | None:
    """By the older function; None where the newer attributes were used, which it does not bear."""
    with suppress(RuntimeError):
        return torch.get_float32_matmul_precision()
    return None


def _set_matmul(wanted: str | None) -> None:
    if wanted is not None:
        torch.set_float32_matmul_precision(wanted)


def _set_precisions(wanted: tuple[str, ...]) -> None:
    for place, each in zip(_PRECISIONS, wanted, strict=True):
        if place.fp32_precision != each:
            place.fp32_precision = each


def _set_attention(wanted: tuple[bool, ...]) -> None:
    for (_, enable), each in zip(_ATTENTION, wanted, strict=True):
        enable(each)


_SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "matmul": (_matmul, _set_matmul),
    "precisions": (lambda: tuple(place.fp32_precision for place in _PRECISIONS), _set_precisions),
    "mkldnn": (lambda: bool(mkldnn.enabled), lambda wanted: setattr(mkldnn, "enabled", wanted)),
    "attention": (lambda: tuple(is_enabled() for is_enabled, _ in _ATTENTION), _set_attention),
    "deterministic": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "denormals": (lambda: SMALLEST / 2 != 0.0, lambda wanted: torch.set_flush_denormal(not wanted)),  # it does not say
}
"""What is read and how it is set, in this order."""


def settings() -> dict[str, Any]:
    """Those of this process, now, as plain values."""
    return {name: read() for name, (read, _) in _SETTINGS.items()}


def settle(settings: Mapping[str, Any]) -> None:
    """Set what another process, or this one at another time, had.

    >>> before = settings()
    >>> torch.set_default_dtype(torch.float64)
    >>> settle(before)
    >>> torch.get_default_dtype()
    torch.float32
    """
    for name, (read, write) in _SETTINGS.items():
        if read() != settings[name]:
            write(settings[name])
