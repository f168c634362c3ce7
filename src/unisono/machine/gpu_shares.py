"""Which GPU each worker of this host owns: pure, so that no GPU need be at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

from unisono.machine.gpu_checks import VISIBLE, names_parts
from unisono.machine.gpus import Gpu

CORES = 2
"""Of a worker that owns a GPU, at least: one computes and tells the GPU what to do next, another one moves sums."""

UNSEEN = {VISIBLE: "", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""The environment of a process that is forked later: it sees no GPU, and PyTorch begins no CUDA to find that out, of
which its children would have a broken one."""


def names_of(gpus: Sequence[Gpu], mask: str | None) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that a run may use.

    Args:
        gpus: those of this host.
        mask: what a person has set it to: what that hides stays hidden; parts of GPUs (MIG) only it can name.

    >>> here = [Gpu("GPU-a", "", "", 0, 0, 132), Gpu("GPU-b", "", "", 0, 0), Gpu("GPU-c", "", "", 0, 0, 132)]
    >>> names_of(here, "0,2"), names_of(here, "MIG-1,MIG-2")
    (('GPU-a', 'GPU-c'), ('MIG-1', 'MIG-2'))
    """
    parts = tuple(takewhile(names_parts, (each.strip() for each in (mask or "").split(","))))
    return parts or tuple(gpu.uuid for gpu in gpus if gpu.is_visible)


def sight(names: Sequence[str], place: int) -> Mapping[str, str]:
    """What a worker's environment says of GPUs: it sees its own alone. Workers at neighbouring places have others, as
    far as there are so many.

    Args:
        names: what the GPUs are called; none = workers see none.
        place: the worker's: no two that live have the same.

    >>> [sight(["GPU-a", "GPU-b"], place)["CUDA_VISIBLE_DEVICES"] for place in range(3)], sight([], 0)
    (['GPU-a', 'GPU-b', 'GPU-a'], {})
    """
    return {VISIBLE: names[place % len(names)]} if names else {}


def shared(workers: int, names: Sequence[str]) -> str | None:
    """What is said where workers share GPUs.

    >>> shared(4, ["GPU-a"])
    '4 workers share 1 GPU: each has a replica of the model there, and they exchange sums by way of host memory'
    >>> shared(2, ["GPU-a", "GPU-b"])
    """
    if not names or workers <= len(names):
        return None
    return (
        f"{workers} workers share {len(names)} GPU{'s' * (len(names) > 1)}: each has a replica of the model there, and "
        "they exchange sums by way of host memory"
    )


def what_would_fit(workers: int, gpus: int, microbatches: int, samples: int) -> str:
    """What to do where a GPU's memory does not suffice.

    Args:
        workers: of the run.
        gpus: how many GPUs they have.
        microbatches: of a batch.
        samples: of a microbatch.

    >>> what_would_fit(4, 2, 8, 1)
    'What would fit: --workers 2, each with a GPU of its own (the same result).'
    >>> what_would_fit(2, 2, 8, 32)
    'What would fit: microbatches=16, of which each needs about half the memory (another result).'
    >>> what_would_fit(2, 2, 8, 1)
    'What would fit: a smaller model, a GPU with more memory, or CPUs.'
    """
    ways = []
    if workers > gpus:
        ways.append(f"--workers {gpus}, each with a GPU of its own (the same result)")
    if samples > 1:
        ways.append(f"microbatches={2 * microbatches}, of which each needs about half the memory (another result)")
    return f"What would fit: {'; '.join(ways) or 'a smaller model, a GPU with more memory, or CPUs'}."


def exchange_of(names: Sequence[str]) -> str:
    """What processes exchange by ("nccl" or "gloo"): GPUs by themselves only where each process has a whole one of its
    own, for NCCL refuses others.

    Args:
        names: what each process calls its GPU; "" = it has none.

    >>> exchange_of(["GPU-a", "GPU-b"]), exchange_of(["GPU-a", "GPU-a"]), exchange_of(["MIG-1", "MIG-2"])
    ('nccl', 'gloo', 'gloo')
    >>> exchange_of(["", ""])
    'gloo'
    """
    whole = all(names) and not any(map(names_parts, names))
    return "nccl" if whole and len(set(names)) == len(names) else "gloo"
