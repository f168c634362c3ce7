"""How a microbatch's inputs come to a GPU: beside what it computes, for the host is ahead of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unisono.frameworks.pytorch import devices


def bringer(device: torch.device) -> Callable[[Any], Any]:
    """What brings batches to a device."""
    return partial(devices.moved, device=device, send=Beside(device) if device.type == "cuda" else None)


class Beside:
    """Copies tensors by a stream of their own, from memory that the GPU reads by itself: the kernels of the microbatch
    before may still be on their way, and those of this one wait for the copy alone.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None

    def __call__(self, values: Tensor) -> Tensor:
        """A tensor there."""
        if values.layout is not torch.strided or values.device.type != "cpu":
            return values.to(self._device, non_blocking=True)
        if self._stream is None:  # CUDA is begun by who computes
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            there = values.pin_memory().to(self._device, non_blocking=True)
        computing.wait_stream(self._stream)
        there.record_stream(computing)  # its memory is not the next copy's before it was used
        return there
