"""The arrays at the top of a job file, where several processes run it: they must be the same in each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from unisono.errors import UsageError
from unisono.frameworks.registry import framework, loaded

MOST_MEMBERS = 1000
"""Of a list or a dictionary that are looked at."""


def values_beside(function: Callable[..., Any]) -> Mapping[str, str]:
    """Name → digest of the arrays in the module of a function.

    Args:
        function: the function.
    """
    home = sys.modules.get(getattr(function, "__module__", None) or "")
    frameworks = [framework(family.package).data for family in loaded()]
    found = {}
    for name, value in vars(home).items() if home else ():
        digest = blake2b(digest_size=16)
        count = 0
        for array in _arrays(value, frameworks):
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
            count += 1
        if count:
            found[name] = digest.hexdigest()
    return found


def _arrays(value: Any, frameworks: list[Any]) -> Iterator[Any]:
    if isinstance(value, np.ndarray):
        if not value.dtype.hasobject:
            yield value
    elif isinstance(value, list | tuple | dict):
        for member in list(value.values() if isinstance(value, dict) else value)[:MOST_MEMBERS]:
            yield from _arrays(member, frameworks)
    for functions in frameworks:
        if isinstance(value, functions.TENSORS):
            if (found := functions.to_array(value)) is not None:
                yield found[0]
            return


def compare(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Hold what a process found to what another one has found.

    Raises:
        UsageError: they differ.

    >>> compare({"noise": "a"}, {"noise": "a", "more": "b"})
    """
    changed = [name for name in before if now.get(name) != before[name]]
    if changed:
        raise UsageError(
            "a job file that leaves threads or open files behind is run by each process, and must give the same values "
            f"in all; received others for {', '.join(changed)}. Seed what is random: np.random.default_rng(0)."
        )
