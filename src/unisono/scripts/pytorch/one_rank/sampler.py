"""A DistributedSampler that gives the only rank all samples."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def of_all_samples(begin: Callable[..., None]) -> Callable[..., None]:
    """The sampler's `__init__` without the number of ranks that the script knows of.

    Args:
        begin: torch's own.
    """

    @functools.wraps(begin)
    def init(self: Any, dataset: Any, num_replicas: int | None = None, rank: int | None = None, *arguments: Any,
             **more: Any) -> None:  # fmt: skip
        begin(self, dataset, 1, 0, *arguments, **more)

    return init
