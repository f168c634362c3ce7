"""What GPUs and the software for them mean for a run: pure, so that no GPU need be at hand."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.errors import UsageError
from unisono.machine.finding import Finding
from unisono.machine.gpus import Build, Gpu, GpuProcess
from unisono.machine.sizes import size

VISIBLE = "CUDA_VISIBLE_DEVICES"

LEAST_BYTES = 1 << 30
"""Of free memory on a GPU: a process takes about half of it before it computes anything."""


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
        UsageError: there is none that CUDA sees, no PyTorch that is built for it, or they are none for one run.
    """
    if reason := _none_seen(gpus, hidden_by) or _no_build(build) or _unfit(gpus, hidden_by):
        way_out = "Leave device out, or say device='cpu': the bits are the same on any number of workers there"
        raise UsageError(f"device='cuda' is for {reason} {way_out}.")


def _none_seen(gpus: Sequence[Gpu], hidden_by: str | None) -> str | None:
    """Why CUDA sees no GPU."""
    if not gpus:
        return "hosts with NVIDIA GPUs whose driver answers nvidia-smi; there is none here."
    if names_parts(hidden_by):
        return None
    if any(gpu.is_cut for gpu in gpus if gpu.is_visible) or all(gpu.is_cut for gpu in gpus):
        return (
            f"whole GPUs, and for parts of them (MIG) that are named; received {VISIBLE}={hidden_by!r} where a GPU is "
            f"cut into parts. `nvidia-smi -L` shows their names: {VISIBLE}=MIG-..., with commas between several."
        )
    if not any(gpu.is_visible for gpu in gpus):
        why = f"{VISIBLE}={hidden_by!r}" if hidden_by is not None else "libcuda.so.1 does not answer"
        return (
            f"GPUs that CUDA sees; of {len(gpus)} here it sees none: {why}. Name some by their numbers ({VISIBLE}=0), "
            "or unset it; `unisono devices` shows them."
        )
    return None


def _no_build(build: Build) -> str | None:
    """Why PyTorch cannot compute on one."""
    if build.torch is not None and build.cuda is not None:
        return None
    there = "none is installed" if build.torch is None else f"{build.torch} is {_cuda(build)}"
    return f"PyTorch that is built for CUDA; {there}. pip install torch from its index of CUDA builds brings one."


def _unfit(gpus: Sequence[Gpu], hidden_by: str | None) -> str | None:
    """Why those that CUDA sees are none for one run."""
    seen = [] if names_parts(hidden_by) else [gpu for gpu in gpus if gpu.is_visible]
    named = [each for each in (hidden_by or "").split(",") if each.strip()]
    if seen and len(named) > len(seen):
        return (
            f"GPUs that are there; {VISIBLE}={hidden_by!r} names {len(named)}, and CUDA sees {len(seen)} of them: it "
            "stops at a name that it does not know. `unisono devices` shows the GPUs."
        )
    models: dict[str, list[str]] = {}
    for gpu in seen:
        models.setdefault(f"{gpu.name} with {gpu.multiprocessors} multiprocessors", []).append(gpu.uuid)
    if len(models) > 1:
        found = ", ".join(f"{model} ({' '.join(uuids)})" for model, uuids in models.items())
        return (
            f"GPUs of one model, for others have other bits; CUDA sees {found}. Leave those of one: "
            f"{VISIBLE}={','.join(next(iter(models.values())))}."
        )
    full = [gpu for gpu in seen if gpu.memory_bytes and gpu.free_bytes < LEAST_BYTES]
    if full:
        return (
            f"GPUs with {size(LEAST_BYTES)} of free memory, of which a process takes a part before it computes; "
            f"{full[0].name} ({full[0].uuid}) has {size(full[0].free_bytes)} of {size(full[0].memory_bytes)}. End what "
            f"uses it (`nvidia-smi` shows that), or leave it out by {VISIBLE}."
        )
    return None


def names_parts(mask: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES names parts of GPUs (MIG).

    >>> names_parts("MIG-5c1a,MIG-77e0"), names_parts("0,1"), names_parts(None)
    (True, False, False)
    """
    return (mask or "").strip().startswith("MIG-")


def crowded(processes: Sequence[GpuProcess], names: Sequence[str]) -> str | None:
    """What is said where others compute on the GPUs of a run.

    Args:
        processes: those that compute on this host's GPUs, before the run does.
        names: what the run's GPUs are called.

    >>> crowded([GpuProcess("GPU-a", "4711", 2 << 30), GpuProcess("GPU-b", "4712", 0)], ["GPU-a"])
    'process 4711 computes on a GPU of this run (2.0 GiB): steps take longer, and memory may not suffice'
    >>> crowded([], ["GPU-a"])
    """
    there = [each for each in processes if each.gpu in names]
    if not there:
        return None
    numbers, taken = ", ".join(each.process for each in there), size(sum(each.memory_bytes for each in there))
    who = f"process {numbers} computes on a GPU" if len(there) == 1 else f"processes {numbers} compute on GPUs"
    return f"{who} of this run ({taken}): steps take longer, and memory may not suffice"


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
