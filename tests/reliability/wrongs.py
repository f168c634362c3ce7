"""What can go wrong in a job's own code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

LENGTH = 100_000


def _raise(text: str) -> Callable[[], None]:
    def wrong() -> None:
        raise ValueError(text)

    return wrong


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def _unprintable() -> None:
    raise _Unprintable


def _deep() -> None:
    _deep()


def _progress_bar() -> None:
    sys.stdout.write("\r" + "#" * LENGTH)


WRONGS: dict[str, Callable[[], None]] = {
    "error": _raise("the job's own"),
    "long error": _raise("漢" * LENGTH),
    "error in colours": _raise("\x1b[2J\x1b]0;title\x07"),
    "error that is no text": _raise("\udc80\ud800"),
    "error without text": _unprintable,
    "endless recursion": _deep,
    "interrupt of its own": lambda: signal.raise_signal(signal.SIGINT),
    "sys.exit(0)": lambda: sys.exit(0),
    "os._exit(0)": lambda: os._exit(0),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "hang": lambda: threading.Event().wait() and None,
    "closed files": lambda: os.closerange(3, 4096),
    "progress bar": _progress_bar,
    "closed output": lambda: os.closerange(1, 3),
}
"""What → a call that does it."""

HARMLESS = {"progress bar"}
"""What is no reason to fail."""

OPEN = {"closed output", "closed files", "interrupt of its own"}
"""What may be."""

ENDS = {"sys.exit(0)", "os._exit(0)", "crash", "hang"}
"""What costs a process: it is replaced, until it happens three times at one place."""
