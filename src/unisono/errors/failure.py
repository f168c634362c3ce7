"""What went wrong and where, as a value that travels from a worker to the supervisor."""

from __future__ import annotations

import errno
import resource
import signal
from dataclasses import dataclass

from unisono.errors import JobError, SpoiledError, UnisonoError, UsageError
from unisono.errors.exits import exit_told
from unisono.errors.traces import MOST_CHARACTERS as TRACEBACK
from unisono.errors.traces import is_of_the_job, shortened, user_traceback, whole_traceback

MEMORY_WAYS_OUT = "Fewer workers keep the result; more microbatches need less memory each but change it."

STACK_SIGNAL = signal.SIGUSR1
"""Makes a worker or loader print its Python stack."""

_NO_MEMORY = ("can't allocate memory", "out of memory")
"""How frameworks say it when it is not a MemoryError."""

MOST_CHARACTERS = 4_000
"""Of a message, besides its place."""


@dataclass(frozen=True)
class Failure:
    """A failed job: the message (rule, received, way out, place), the user's own traceback, and whether what failed may
    have changed the parameters in shared memory. Or no failed job: what has become of the device of its process
    ("failed"; "memory": that did not suffice).
    """

    message: str
    traceback: str = ""
    usage: bool = False
    spoiled: bool = False
    device: str = ""

    def error(self) -> UnisonoError:
        """The exception to raise in the user's process."""
        return UsageError(self.message) if self.usage else JobError(self.message, self.traceback)


def failure(error: BaseException, where: str) -> Failure:
    """Describe an exception that was raised while doing something for the job.

    Args:
        error: the exception.
        where: the place, e.g. "worker 1, step 12, microbatch 3".
    """
    of_the_job = isinstance(error, PlacedError) or is_of_the_job(error)
    if isinstance(error, PlacedError):
        where = f"{error.where}, {where}"
        error = error.cause
    if isinstance(error, JobError):
        spoiled = isinstance(error, SpoiledError)
        return Failure(f"{_short(error.message)} ({where})", shortened(error.traceback, TRACEBACK), spoiled=spoiled)
    text = _short(error)
    if isinstance(error, UnisonoError):
        return Failure(f"{text} ({where})", usage=True)
    if isinstance(error, SystemExit):
        return Failure(f"{exit_told(error)} ({where})", user_traceback(error))
    shown = user_traceback(error) if of_the_job else whole_traceback(error)
    if lacks_memory(error):
        return Failure(f"out of memory ({where}). {MEMORY_WAYS_OUT}", shown)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Failure(f"{too_many_files()} ({where})", shown)
    name = type(error).__name__
    if of_the_job:
        return Failure(f"{name} in the job's code ({where})", shown)
    return Failure(f"{name}: an error in Unisono, not in your job: please report it, with these lines ({where})", shown)


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out.

    >>> lacks_memory(MemoryError()), lacks_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"))
    (True, True)
    """
    return isinstance(error, MemoryError) or any(sign in _short(error) for sign in _NO_MEMORY)


def described_error(error: BaseException) -> Failure:
    """An error of this process as a value."""
    if isinstance(error, JobError):
        return Failure(_short(error.message), shortened(error.traceback, TRACEBACK))
    if isinstance(error, UnisonoError):
        return Failure(_short(error), usage=isinstance(error, UsageError))
    return failure(error, "beside the workers")


def too_many_files() -> str:
    """What to say where a process, or the machine, may open no more files."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"too many open files: a process may have {most:,} here. Allow more (ulimit -n 65536), or close what the job "
        "opens"
    )


def _short(error: object) -> str:
    try:
        text = str(error)
    except Exception:  # the job's own class
        text = f"<{type(error).__name__} that cannot be written>"
    return shortened(text, MOST_CHARACTERS)


class PlacedError(Exception):
    """An exception with a finer place than the caller knows (a sample's index)."""

    def __init__(self, cause: BaseException, where: str) -> None:
        super().__init__(where)
        self.cause = cause
        self.where = where


class WorkerFailed(Exception):
    """The job failed in this worker, or in the loader that reads for it; carries the description."""

    def __init__(self, description: Failure) -> None:
        super().__init__(description.message)
        self.description = description
