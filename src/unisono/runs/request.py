"""What a run asks of this host."""

from __future__ import annotations

import os
from typing import Any

from unisono.machine.cores import physical_count
from unisono.machine.devices import usable_cores
from unisono.machine.gpu_checks import VISIBLE, refuse_cuda
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
        UsageError: this is no Linux, or the device is none that workers compute on.
    """
    require_linux()
    if settings.device == "cuda":
        refuse_cuda(gpus(), build(), os.environ.get(VISIBLE))
    cores, layout = usable_cores(), settings.split
    least = layout.workers if layout.data else max(layout.pipeline, physical_count(cores) // settings.threads)
    workers = layout.workers if settings.debug else settings.workers or least
    return Request(
        workers, settings.threads, cores, layout, settings.recompute == "blocks", settings.timeline,
        checkpoint_steps=settings.checkpointing.steps, stall_seconds=settings.stall_seconds, **more,
    )  # fmt: skip
