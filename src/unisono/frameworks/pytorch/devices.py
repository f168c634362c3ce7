"""A device that a process computes on beside its CPU: what goes there, its generators, its algorithms, its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unisono.errors import UsageError
from unisono.frameworks.pytorch import determinism
from unisono.machine.devices import read
from unisono.machine.gpu_checks import VISIBLE

CPU = torch.device("cpu")

_WORKSPACE = ":4096:8"
"""Scratch memory of cuBLAS with which its sums come in one order (PyTorch asks for this or ":16:8")."""


def begun(name: str) -> torch.device:
    """A device that this process uses from here on.

    Raises:
        UsageError: PyTorch cannot.
    """
    if name == "cuda":
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            raise UsageError(
                f"device='cuda' is for GPUs on which PyTorch {torch.__version__} can begin to compute; on "
                f"{os.environ.get(VISIBLE)} it says: {str(error).partition(chr(10))[0]}. Mend what it names, or train "
                "on CPUs: leave device out."
            ) from error
    return torch.device(name)


def moved(batch: Any, device: torch.device, send: Callable[[Tensor], Tensor] | None = None) -> Any:
    """A batch on a device: its tensors, and objects that know how to go there (`to`), as in a plain loop.

    Args:
        batch: it.
        device: where to.
        send: brings a tensor there; None = it is copied after what was computed before.

    >>> moved((torch.ones(1), {"n": 3}), torch.device("meta"))
    (tensor(..., device='meta', size=(1,)), {'n': 3})
    """
    return batch if device.type == "cpu" else _moved(batch, device, send)


def home(value: Any) -> Any:
    """What lies on a device, in the host's memory."""
    return _moved(value, CPU)


def gpu(device: torch.device) -> str:
    """What this process calls the GPU that it owns; "" = it has none."""
    return os.environ.get(VISIBLE, "") if device.type == "cuda" else ""


def beside(like: Tensor, *shape: int) -> Tensor:
    """Memory of the host for a tensor's values: a GPU reads and writes it by itself (pinned)."""
    return torch.empty(shape, dtype=like.dtype, pin_memory=like.device.type == "cuda")


def host_copy(values: Tensor) -> Tensor:
    """A tensor's values in the host's memory, once they are there; on the CPU it is the tensor itself."""
    return values if values.device.type == "cpu" else beside(values, *values.shape).copy_(values)


def _moved(value: Any, device: torch.device, send: Callable[[Tensor], Tensor] | None = None) -> Any:
    if isinstance(value, Tensor):
        if send is not None:
            return send(value)
        return value.to(device, non_blocking=device.type != "cpu")  # the host reads at once what comes to it
    if callable(getattr(value, "to", None)):  # before tuples, for a PackedSequence keeps its lengths on the CPU
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(item, device, send) for name, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_moved(item, device, send) for item in value]
        return tuple.__new__(type(value), items) if isinstance(value, tuple) else items
    return value


def seed(number: int, device: torch.device) -> None:
    """Seed a device's generator: what dropout draws from there. The CPU's is another."""
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def pin(device: torch.device, precision: str) -> None:
    """From here on no operation on this device may add in an order that changes, or choose kernels by their speed.

    Args:
        device: which.
        precision: the job's; products of float32 matrices are rounded to TF32 with "tf32" alone.
    """
    if device.type == "cpu":
        return
    os.environ.setdefault(determinism.WORKSPACE, _WORKSPACE)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    cudnn.benchmark, cudnn.deterministic = False, True
    if hasattr(matmul, "fp32_precision"):  # since PyTorch 2.9
        for place in (matmul, cudnn.conv, cudnn.rnn):
            place.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    else:
        matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"


def fingerprint(device: torch.device) -> dict[str, str]:
    """What of a device decides about bits."""
    if device.type == "cpu":
        return {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    found = {"device": device.type, "deterministic": str(torch.are_deterministic_algorithms_enabled())}
    if device.type == "cuda":
        about, cudnn = torch.cuda.get_device_properties(device), torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found |= {
            "gpu": about.name,
            "multiprocessors": str(about.multi_processor_count),
            "driver": driver(read(Path("/proc/driver/nvidia/version")) or ""),
            "cuda": str(torch.version.cuda),
            "cudnn": str(cudnn),
            "cublas_workspace": os.environ.get(determinism.WORKSPACE, ""),
        }
    return found


def driver(text: str) -> str:
    """The version of NVIDIA's driver, by what the kernel says of it.

    >>> driver("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)")
    '570.86.15'
    """
    numbers = [word for word in text.split() if word.count(".") and word.replace(".", "").isdigit()]
    return numbers[0] if numbers else "unknown"
