"""One process a framework that has imported it, kept for a session's many small runs: each run takes a copy of it."""

from __future__ import annotations

import os
import threading

from unisono import Job
from unisono.frameworks.registry import named_beside
from unisono.runtime.supervisor.warm_parent_client import WarmParent

_kept: dict[tuple[str, ...], tuple[dict[str, str], WarmParent]] = {}


def host_for(job: Job) -> WarmParent:
    """A host for one run of a job; a fresh one where the test has changed the environment."""
    packages = tuple(family.package for family in named_beside(job.model))
    if not packages or threading.current_thread() is not threading.main_thread():  # a kept one would end with it
        return WarmParent()
    if packages not in _kept:
        _kept[packages] = _environment(), WarmParent()
        for package in packages:
            _kept[packages][1].imports(f"unisono.frameworks.{package}.model")
    environment, host = _kept[packages]
    return host.copied() if environment == _environment() else WarmParent()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def kept() -> set[int]:
    """The kept processes."""
    return {host.process for _, host in _kept.values()}


def close() -> None:
    """End them."""
    while _kept:
        _kept.popitem()[1][1].close()
