"""How calls are computed: what a script says, what `unisono run` says, and what this machine has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from unisono.errors import UsageError
from unisono.scripts.cutting import DEFAULT_MICROBATCHES
from unisono.scripts.said import say_once
from unisono.values.bounds import MOST_MICROBATCHES, MOST_WORKERS, number_in, whole
from unisono.values.text import excerpt

MICROBATCHES, WORKERS, VERIFIED_WORKERS = "UNISONO_MICROBATCHES", "UNISONO_WORKERS", "UNISONO_VERIFY_WORKERS"


@dataclass(frozen=True)
class CallSettings:
    """How.

    Attributes:
        microbatches: into how many a call is cut.
        workers: processes that compute; 0 = the script itself.
        dim: along which dimension calls are cut.
        smallest: samples of the smallest call for workers; the script computes those that are smaller.
    """

    microbatches: int
    workers: int
    dim: int
    smallest: int

    def with_workers(self, workers: int) -> CallSettings:
        """The same with another number of workers."""
        return replace(self, workers=workers)


def workers_given(value: Any) -> int:
    """A number of workers; 0 = the script itself.

    Raises:
        UsageError: it is no such number.
    """
    return whole("workers", value, least=0, most=MOST_WORKERS)


def settings_of(
    microbatches: int | None, workers: int | None, dim: int, smallest: int,
    environment: Mapping[str, str] | None = None,
) -> CallSettings:  # fmt: skip
    """What is given, else what the environment says, else what this machine has; `verify`'s workers beat all.

    Args:
        microbatches, workers, dim, smallest: see `unisono.parallel`.
        environment: variables; default: this process's.

    Raises:
        UsageError: one is out of bounds.

    >>> settings_of(None, 2, 1, 64, {"UNISONO_MICROBATCHES": "4", "UNISONO_WORKERS": "0"})
    CallSettings(microbatches=4, workers=2, dim=1, smallest=64)
    """
    variables = os.environ if environment is None else environment
    pieces = _first(microbatches, variables, MICROBATCHES)
    pieces = whole("microbatches", DEFAULT_MICROBATCHES if pieces is None else pieces, most=MOST_MICROBATCHES)
    wanted = _first(None, variables, VERIFIED_WORKERS)
    wanted = _first(workers, variables, WORKERS) if wanted is None else wanted
    if wanted is None:
        wanted = min(pieces, cores := len(os.sched_getaffinity(0)))
        if 1 < pieces < cores:
            say_once(f"{pieces} of {cores} cores used; microbatches={cores} uses all, and is another result.")
    return CallSettings(
        pieces, workers_given(wanted), whole("dim", dim, least=0, most=7), whole("smallest", smallest, least=0)
    )


def _first(given: Any, variables: Mapping[str, str], name: str) -> Any:
    if given is not None or name not in variables:
        return given
    number = number_in(variables[name])
    if number is None:
        raise UsageError(f"${name} must be a whole number; received {excerpt(variables[name])}.")
    return number
