"""One process a framework that has imported it, kept for a session's many small runs: each run takes a copy of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from unisono import Job
from unisono.frameworks.registry import named_beside
from unisono.runs import execution
from unisono.runtime.supervisor.warm_parent_client import WarmParent

_kept: dict[tuple[str, ...], WarmParent] = {}
_usual: dict[str, str] = {}


def begin() -> None:
    """A test begins. What it has in its environment is what others have, and what libraries have set meanwhile; where
    it changes that, its runs have processes of their own."""
    _usual.clear()
    _usual.update(_environment())


def host_for(job: Job) -> WarmParent:
    """A host for one run of a job; a fresh one where the test has changed the environment."""
    packages = tuple(family.package for family in named_beside(job.model))
    if not packages or threading.current_thread() is not threading.main_thread():  # a kept one would end with it
        return WarmParent()
    if _environment() != _usual:
        return WarmParent()
    if packages not in _kept:
        _kept[packages] = WarmParent()
        for package in packages:
            _kept[packages].imports(f"unisono.frameworks.{package}.model")
    return _kept[packages].copied()


def held(job: Any, host: WarmParent | None = None, *say: Callable[[str], None]) -> AbstractContextManager[Any]:
    """`unisono.runs.execution.held`, where a job that this process has made is held by a copy."""
    return execution.held(job, host or (host_for(job) if isinstance(job, Job) else None), *say)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def kept() -> set[int]:
    """The kept processes."""
    return {host.process for host in _kept.values()}


def close() -> None:
    """End them."""
    while _kept:
        _kept.popitem()[1].close()
