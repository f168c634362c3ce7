"""What the model raises in a call, as the script sees it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from unisono.errors import JobError, UnisonoError
from unisono.errors.failure import MEMORY_WAYS_OUT, lacks_memory
from unisono.errors.traces import is_users_file, user_traceback
from unisono.scripts.pytorch.request import Request


@contextmanager
def told(request: Request, act: str, microbatch: int) -> Iterator[None]:
    """A block that computes a microbatch.

    Args:
        request: its call.
        act: "forward" or "backward".
        microbatch: its number.

    Raises:
        JobError: the model raised.
    """
    try:
        yield
    except UnisonoError:
        raise
    except Exception as error:
        count = len(request.pieces)
        which = f"microbatch {microbatch} of {count}" if count > 1 else "the whole batch"
        name, way_out = ("out of memory", f". {MEMORY_WAYS_OUT}") if lacks_memory(error) else (type(error).__name__, "")
        raise JobError(
            f"{name} in a parallel call ({request.where}; {act} pass of {which}){way_out}", user_traceback(error)
        ) from error


def calling_line() -> str:
    """The line of a person's own code that is running, of the frames of this thread the nearest."""
    frame = sys._getframe(1)
    while frame.f_back is not None and not is_users_file(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
