"""What GPUs and the software for them mean for a run: pure, so that no GPU need be at hand."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.errors import UsageError
from unisono.machine.finding import Finding
from unisono.machine.gpus import Build, Gpu
from unisono.machine.sizes import size

VISIBLE = "CUDA_VISIBLE_DEVICES"


def check_gpus(gpus: Sequence[Gpu], links: str, build: Build, hidden_by: str | None) -> list[Finding]:
    """What there is: a line a GPU, how they are joined, and the software.

    Args:
        gpus, links, build: see `unisono.machine.gpus`.
        hidden_by: the value of CUDA_VISIBLE_DEVICES; None = it is not set.
    """
    found = [_gpu(number, gpu, hidden_by) for number, gpu in enumerate(gpus)]
    if links:
        found.append(Finding("links", "ok", links))
    software = "none" if build.torch is None else f"{build.torch}, {_cuda(build)}"
    software += f", NCCL {build.nccl}" if build.nccl else ""
    return [*found, Finding("torch", "ok", software)]


def _gpu(number: int, gpu: Gpu, hidden_by: str | None) -> Finding:
    about = f"{gpu.name}, {size(gpu.free_bytes)} free of {size(gpu.memory_bytes)}, driver {gpu.driver}"
    if gpu.is_visible:
        return Finding(f"GPU {number}", "ok", f"{about}, {gpu.multiprocessors} multiprocessors")
    why = "the driver's libcuda.so.1 does not answer" if hidden_by is None else f"{VISIBLE}={hidden_by!r} hides it"
    return Finding(f"GPU {number}", "warning", f"{about}; CUDA does not see it", f"Here {why}: mend that to use it.")


def _cuda(build: Build) -> str:
    return "built without CUDA" if build.cuda is None else f"built for CUDA {build.cuda}"


def refuse_cuda(gpus: Sequence[Gpu], build: Build, hidden_by: str | None) -> None:
    """Refuse to train on GPUs where something stands in the way, which is said.

    Args:
        gpus, build, hidden_by: see `check_gpus`.

    Raises:
        UsageError: there is none that CUDA sees, or no PyTorch that is built for it.
    """
    way_out = "Leave device out, or say device='cpu': the bits are the same on any number of workers there"
    if not gpus:
        raise UsageError(
            "device='cuda' is for hosts with NVIDIA GPUs whose driver answers nvidia-smi; there is none here. "
            f"{way_out}."
        )
    if not any(gpu.is_visible for gpu in gpus):
        why = f"{VISIBLE}={hidden_by!r}" if hidden_by is not None else "libcuda.so.1 does not answer"
        raise UsageError(
            f"device='cuda' is for GPUs that CUDA sees; of {len(gpus)} here it sees none: {why}. Name some by their "
            f"numbers ({VISIBLE}=0), or unset it; `unisono devices` shows them. {way_out}."
        )
    if build.torch is None or build.cuda is None:
        there = "none is installed" if build.torch is None else f"{build.torch} is {_cuda(build)}"
        raise UsageError(
            f"device='cuda' is for PyTorch that is built for CUDA; {there}. pip install torch from its index of CUDA "
            f"builds brings one. {way_out}."
        )


def unused(names: Sequence[str], hidden_by: str | None) -> str | None:
    """What a run says of GPUs that it leaves alone; None where there are none, or a person has hidden them.

    >>> unused(["NVIDIA H200"], None)
    '1 GPU here, not used: no check of training on GPUs is recorded yet (--device cuda: used; cpu: not said again)'
    >>> unused([], None), unused(["NVIDIA H200"], "")
    (None, None)
    """
    if not names or hidden_by in ("", "-1"):
        return None
    plural = "s" * (len(names) > 1)
    return (
        f"{len(names)} GPU{plural} here, not used: no check of training on GPUs is recorded yet (--device cuda: used; "
        "cpu: not said again)"
    )
