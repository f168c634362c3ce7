"""The two ways in which Unisono says no: wrong use (exit status 2) and a failed job (exit status 1)."""

from __future__ import annotations

from typing import Any


def way_to_install(extra: str) -> str:
    """The command that brings what an extra names: from Unisono's folder, for no package index has Unisono.

    >>> way_to_install("jax")
    "pip install '.[jax]' in Unisono's folder"
    """
    return f"pip install '.[{extra}]' in Unisono's folder"


class UnisonoError(Exception):
    """Base of every error that Unisono raises on purpose; its text is meant for the user."""

    exit_status = 1
    is_known = False
    """Whether the other hosts of the run know of it."""


class UsageError(UnisonoError):
    """Something asked for breaks a rule: the text gives the rule, what was received and the way out."""

    exit_status = 2


class JobError(UnisonoError):
    """The job failed while it ran.

    Args:
        message: what failed, where (worker, step, microbatch) and the way out.
        traceback: the user's own traceback, already formatted; shown last.
    """

    exit_status = 1

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.message}\n\n{self.traceback}".rstrip() if self.traceback else self.message


class Interrupted(UnisonoError):
    """A run was asked to stop before it had begun: there is nothing to save.

    Attributes:
        shutdown: why (see `runtime.shutdown`), once the supervisor has said so.
    """

    exit_status = 130

    def __init__(self) -> None:
        super().__init__("interrupted before the first step")
        self.shutdown: Any = None


class SpoiledError(JobError):
    """The job failed, and what it has changed may be in shared memory: nothing of this step can be kept."""
