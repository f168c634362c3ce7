"""Whose an error is, the job's or Unisono's, and what of its traceback helps."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_HOUSE = str(Path(__file__).parent.parent) + "/"
_LIBRARIES = tuple({sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib")})
_INSTALLED = ("/site-packages/", "/dist-packages/")
_MEANS = frozenset({"numpy", "safetensors", "cloudpickle", "rich", "click", "tensorboardX"})
"""Packages by whose functions Unisono does its own work, whatever the job."""

_CALLERS = tuple(
    _HOUSE + part
    for part in (
        "frameworks/",
        "job.py",
        "runs/jobfile.py",
        "partition/order.py",
        "runtime/worker/evaluation.py",
        "runtime/loader/samples.py",
    )
)
"""Code that calls a job's functions and looks at what they return: what fails there is most often the job's fault."""

MOST_CHARACTERS = 20_000
"""Of a traceback."""


def user_traceback(error: BaseException) -> str:
    """Format an exception as Python does, leaving out the frames of this package, unless there are no others.

    Args:
        error: the exception.
    """
    foreign = any(
        not frame.f_code.co_filename.startswith(_HOUSE) for frame, _ in traceback.walk_tb(error.__traceback__)
    )
    return _formatted(error, house=not foreign)


def whole_traceback(error: BaseException) -> str:
    """Format an exception as Python does, with all frames."""
    return _formatted(error, house=True)


def is_of_the_job(error: BaseException) -> bool:
    """Whether an exception comes from a job: its own code, a framework's that it uses, or what its functions return.

    Args:
        error: the exception, as it was caught.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = [frame.f_code.co_filename for frame in frames if frame.f_code.co_filename.startswith(_HOUSE)]
    return any(not _is_ours(frame) for frame in frames) or any(file.startswith(_CALLERS) for file in inside[-1:])


def shortened(text: str, most: int) -> str:
    """A text of at most about so many characters: its head and its tail; it can be written in UTF-8.

    Args:
        text: the text.
        most: characters.

    >>> shortened("a" * 50 + "b" * 50, 20)
    'aaaaaaaaaa … (80 characters left out) … bbbbbbbbbb'
    >>> shortened("short", 20)
    'short'
    """
    if len(text) > most:
        left_out = f" … ({len(text) - most // 2 * 2:,} characters left out) … "
        text = text[: most // 2] + left_out + text[len(text) - most // 2 :]
    return text.encode(errors="backslashreplace").decode()


def job_frames(stack: str) -> str:
    """Of a stack that `faulthandler` wrote the lines that are not of this package."""
    ours = (f'File "{_HOUSE}', 'File "<frozen ')
    return "\n".join(line for line in stack.splitlines() if not line.strip().startswith(ours))


def is_own_file(file: str) -> bool:
    """Whether a frame's file is of this package."""
    return file.startswith(_HOUSE)


def is_standard_file(file: str) -> bool:
    """Whether a frame's file is of Python itself."""
    return file.startswith("<frozen ") or (file.startswith(_LIBRARIES) and not any(part in file for part in _INSTALLED))


def is_users_file(file: str) -> bool:
    """Whether a file is a person's own: not of this package, nor of Python, nor installed.

    >>> is_users_file("/home/ada/job.py"), is_users_file("/venv/lib/python3/site-packages/torch/nn.py")
    (True, False)
    """
    return not is_own_file(file) and not is_standard_file(file) and not any(part in file for part in _INSTALLED)


def _is_ours(frame: FrameType) -> bool:
    file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__", "")).partition(".")[0]
    if is_own_file(file) or is_standard_file(file) or module == "unisono":
        return True
    if any(part in file for part in _INSTALLED):
        return module in _MEANS
    return file == "<string>" and module in sys.stdlib_module_names


def _formatted(error: BaseException, house: bool) -> str:
    summary = traceback.TracebackException.from_exception(error)
    if not house:
        for part in _parts(summary):
            frames = [frame for frame in part.stack if not frame.filename.startswith(_HOUSE)]
            part.stack = traceback.StackSummary.from_list(frames)
    return shortened("".join(summary.format()).rstrip(), MOST_CHARACTERS)


def _parts(summary: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """An exception and all that it came from."""
    found = [summary]
    while found:
        part = found.pop()
        yield part
        others = (part.__cause__, part.__context__, *(part.exceptions or ()))
        found += [other for other in others if other is not None]
