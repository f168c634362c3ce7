"""A job's code that leaves its process by itself has not succeeded, whatever status it asks for."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from unisono.errors.traces import is_own_file


def exit_told(request: SystemExit) -> str:
    """What the job's code did when it asked to leave the process, and where.

    Args:
        request: how `sys.exit`, `quit` and `exit` do that.
    """
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(request.__traceback__)]
    theirs = [frame for frame in frames if not (frame[0].startswith("<") or is_own_file(frame[0]))]
    code = "" if request.code is None else repr(request.code)
    return f"the job's code called sys.exit({code}){_place(*theirs[-1]) if theirs else ''}"


def _place(file: str, line: int) -> str:
    return f" ({Path(file).name}, line {line})"


@contextmanager
def exits_told() -> Iterator[None]:
    """In this block `os._exit(0)` in a job's code says so, and ends this process with status 1.

    Processes that it forks end as they wish.
    """
    own, leave = os.getpid(), os._exit

    def told(status: int) -> NoReturn:
        caller = sys._getframe(1)
        file = caller.f_code.co_filename
        if status == 0 and os.getpid() == own and not is_own_file(file):
            text = f"unisono: the job's code called os._exit(0){_place(file, caller.f_lineno)}\n"
            os.write(2, text.encode(errors="backslashreplace"))
            leave(1)
        leave(status)

    os._exit = told
    try:
        yield
    finally:
        os._exit = leave
