"""The user's own traceback: what Python prints, without Unisono's frames."""

from __future__ import annotations

import traceback
from pathlib import Path

_HOUSE = str(Path(__file__).parent) + "/"


def user_traceback(error: BaseException) -> str:
    """Format an exception as Python does, leaving out the frames of this package.

    Args:
        error: the exception.
    """
    summary = traceback.TracebackException.from_exception(error)
    _strip(summary)
    return "".join(summary.format()).rstrip()


def _strip(summary: traceback.TracebackException) -> None:
    frames = [frame for frame in summary.stack if not frame.filename.startswith(_HOUSE)]
    summary.stack = traceback.StackSummary.from_list(frames)
    for inner in (summary.__cause__, summary.__context__):
        if inner is not None:
            _strip(inner)
