"""What a run asks of this host."""

from __future__ import annotations

import os
from typing import Any

from unisono.errors import UsageError
from unisono.machine.cores import physical_count
from unisono.machine.devices import usable_cores
from unisono.machine.gpu_checks import VISIBLE, refuse_cuda
from unisono.machine.gpu_shares import names_of
from unisono.machine.gpus import build, gpus
from unisono.machine.platform_check import require_linux
from unisono.runtime.rules.request import Request
from unisono.settings import Settings


def request_of(settings: Settings, **more: Any) -> Request:
    """What to ask of this host; workers default to what the layout says, or physical cores over the threads of each.

    Args:
        settings: of the run.
        more: see `Request`.

    Raises:
        UsageError: this is no Linux, or workers cannot compute on the device here.
    """
    require_linux()
    names = _gpus_of(settings) if settings.device == "cuda" else ()
    cores, layout = usable_cores(), settings.split
    least = layout.workers if layout.data else max(layout.pipeline, physical_count(cores) // settings.threads)
    workers = layout.workers if settings.debug else settings.workers or len(names) or least
    return Request(
        workers, settings.threads, cores, layout, settings.recompute == "blocks", settings.timeline,
        device="cuda" if names else None, gpus=names,
        checkpoint_steps=settings.checkpointing.steps, stall_seconds=settings.stall_seconds, **more,
    )  # fmt: skip


def _gpus_of(settings: Settings) -> tuple[str, ...]:
    """What the GPUs that workers own are called."""
    if settings.debug:
        raise UsageError(
            "debug computes in one process, on the CPU, which has other bits than a GPU; received device='cuda' too. "
            "Leave one of them out; workers=1 is one process that computes on a GPU."
        )
    here, mask = gpus(), os.environ.get(VISIBLE)
    refuse_cuda(here, build(), mask)
    return names_of(here, mask)
