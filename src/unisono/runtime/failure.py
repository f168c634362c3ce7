"""What went wrong and where, as a value that travels from a worker to the supervisor."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from unisono.errors import JobError, SpoiledError, UnisonoError, UsageError
from unisono.usertrace import user_traceback

MEMORY_WAYS_OUT = "Fewer workers keep the result; more microbatches need less memory each but change it."

STACK_SIGNAL = signal.SIGUSR1
"""Makes a worker or loader print its Python stack."""

_NO_MEMORY = ("can't allocate memory", "out of memory")
"""How frameworks say it when it is not a MemoryError."""

MOST_CHARACTERS = 30_000
"""Of a traceback: it travels through a pipe that nobody reads before its writer has ended."""


@dataclass(frozen=True)
class Failure:
    """A failed job: the message (rule, received, way out, place), the user's own traceback, and whether what failed may
    have changed the parameters in shared memory."""

    message: str
    traceback: str = ""
    usage: bool = False
    spoiled: bool = False

    def error(self) -> UnisonoError:
        """The exception to raise in the user's process."""
        return UsageError(self.message) if self.usage else JobError(self.message, self.traceback)


def failure(error: BaseException, where: str) -> Failure:
    """Describe an exception that was raised while doing something for the job.

    Args:
        error: the exception.
        where: the place, e.g. "worker 1, step 12, microbatch 3".
    """
    if isinstance(error, PlacedError):
        where = f"{error.where}, {where}"
        error = error.cause
    if isinstance(error, JobError):
        return Failure(f"{error.message} ({where})", error.traceback, spoiled=isinstance(error, SpoiledError))
    if isinstance(error, UnisonoError):
        return Failure(f"{error} ({where})", usage=True)
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
        text = f"out of memory ({where}). {MEMORY_WAYS_OUT}"
        return Failure(text, user_traceback(error)[-MOST_CHARACTERS:])
    return Failure(f"{type(error).__name__} in the job's code ({where})", user_traceback(error)[-MOST_CHARACTERS:])


def described_error(error: Exception) -> Failure:
    """An error of this process as a value."""
    if isinstance(error, JobError):
        return Failure(error.message, error.traceback)
    text = str(error) if isinstance(error, UnisonoError) else repr(error)
    return Failure(text, usage=isinstance(error, UsageError))


class PlacedError(Exception):
    """An exception with a finer place than the caller knows (a sample's index)."""

    def __init__(self, cause: BaseException, where: str) -> None:
        super().__init__(where)
        self.cause = cause
        self.where = where
