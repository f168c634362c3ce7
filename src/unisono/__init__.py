"""Unisono: distributed deep-learning training with the same bits on any number of workers.

What stands here is imported when it is first used: the command's `--help`, and a job file that needs `Job` alone, wait
for nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisono.api import evaluate, open, start, train
    from unisono.commands.verify.verify import verify
    from unisono.errors import JobError, UnisonoError, UsageError
    from unisono.job import Job
    from unisono.partition.layout import Layout
    from unisono.partition.order import by_length, stratified, weighted
    from unisono.runs.handle import Run
    from unisono.scripts.parallel import parallel
    from unisono.settings import Ray
    from unisono.version import __version__

__all__ = [
    "Job",
    "JobError",
    "Layout",
    "Ray",
    "Run",
    "UnisonoError",
    "UsageError",
    "__version__",
    "by_length",
    "evaluate",
    "open",
    "parallel",
    "start",
    "stratified",
    "train",
    "verify",
    "weighted",
]  # fmt: skip

_HOMES = {
    "api": ("evaluate", "open", "start", "train"),
    "errors": ("JobError", "UnisonoError", "UsageError"),
    "job": ("Job",),
    "partition.layout": ("Layout",),
    "partition.order": ("by_length", "stratified", "weighted"),
    "runs.handle": ("Run",),
    "scripts.parallel": ("parallel",),
    "settings": ("Ray",),
    "commands.verify.verify": ("verify",),
    "version": ("__version__",),
}


def __getattr__(name: str) -> Any:
    """The public name, from the module that defines it (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, whether used or not."""
    return sorted({*globals(), *__all__})
