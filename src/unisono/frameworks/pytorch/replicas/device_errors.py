"""What PyTorch raises where a device can't go on, and what it does not raise."""

from __future__ import annotations

import torch

from unisono.errors.traces import shortened
from unisono.frameworks.protocol.device import DeviceFailed

_MOST_CHARACTERS = 600

_SIGNS = ("CUDA error", "CUDA driver error", "cuDNN error")
"""How errors begin that have no class of their own."""

_OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def failed(error: BaseException, device: torch.device) -> DeviceFailed | None:
    """What an exception says of a device; None = nothing.

    Args:
        error: it.
        device: this process's.

    >>> cuda = torch.device("cuda")
    >>> failed(torch.OutOfMemoryError("CUDA out of memory."), cuda).memory, failed(ValueError("CUDA error"), cuda)
    (True, None)
    >>> failed(RuntimeError("CUDA error: an illegal memory access was encountered"), cuda)
    DeviceFailed('CUDA error: an illegal memory access was encountered')
    """
    if isinstance(error, DeviceFailed):
        return error
    if device.type == "cpu" or not isinstance(error, RuntimeError):
        return None
    text = shortened(str(error), _MOST_CHARACTERS)
    memory = isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in _OUT_OF_MEMORY)
    if memory or isinstance(error, getattr(torch, "AcceleratorError", ())) or text.startswith(_SIGNS):
        return DeviceFailed(text, memory)
    return None


def check_algorithms(device: torch.device) -> None:
    """Refuse a round in which a library may have found no memory for one algorithm, and taken another one: it says
    nothing, and its bits are others.

    Raises:
        DeviceFailed: memory was asked for in vain, though nothing was raised.
    """
    if device.type == "cuda":
        check_refusals(torch.cuda.memory_stats_as_nested_dict(device)["num_ooms"])


def check_refusals(count: int) -> None:
    """See `check_algorithms`.

    Args:
        count: how often memory was asked for in vain in this process.
    """
    if count:
        raise DeviceFailed(
            "out of memory: an operation was refused some and may have computed in another way, with other bits",
            memory=True,
        )
