"""Unisono: distributed deep-learning training with the same bits on any number of workers."""

__version__ = "0.1.0"

from unisono.api import evaluate, open, start, train
from unisono.errors import JobError, UnisonoError, UsageError
from unisono.job import Job
from unisono.partition.order import by_length, stratified, weighted
from unisono.run import Run
from unisono.verify import verify

__all__ = [
    "Job", "JobError", "Run", "UnisonoError", "UsageError", "by_length", "evaluate", "open", "start", "stratified",
    "train", "verify", "weighted",
]  # fmt: skip
