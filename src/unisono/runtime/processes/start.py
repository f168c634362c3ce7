"""The warm parent's process, as it is started: what takes longest comes first, so this imports next to nothing."""

from __future__ import annotations

import os
import subprocess

from unisono.frameworks.registry import families
from unisono.machine.gpu_shares import UNSEEN
from unisono.runtime.processes.channel import Channel, started

POOLS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS", "NPROC",
)  # fmt: skip
"""What libraries read how many threads to use from, when they are loaded or first used."""

# Weight gradients are large and fresh each time: huge pages save most of their page faults (10 % of an MLP's step).
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def environment() -> dict[str, str]:
    """What a process finds in its environment that works on a job."""
    variables = {**_HUGE_PAGES, **os.environ, **dict.fromkeys(POOLS, "1"), **UNSEEN}
    for family in families():
        variables = {**family.preferred, **variables, **family.environment}
    return variables


def warm_parent() -> tuple[subprocess.Popen[bytes], Channel, int]:
    """Start one (see `unisono.runtime.processes.warm_parent`), with the way to it and the file for its stacks."""
    stacks = os.memfd_create("unisono-stacks")
    process, channel = started(
        "unisono.runtime.processes.warm_parent", stacks, env=environment(),
        process_group=0,  # a terminal's Ctrl-C is for the supervisor alone
    )  # fmt: skip
    return process, channel, stacks
