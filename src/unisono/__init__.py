"""Unisono: distributed deep-learning training with the same bits on any number of workers."""

from unisono.api import evaluate, open, start, train
from unisono.cluster.ray import Ray
from unisono.errors import JobError, UnisonoError, UsageError
from unisono.job import Job
from unisono.partition.layout import Layout
from unisono.partition.order import by_length, stratified, weighted
from unisono.run import Run
from unisono.verify import verify
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
    "start",
    "stratified",
    "train",
    "verify",
    "weighted",
]  # fmt: skip
