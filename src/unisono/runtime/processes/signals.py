"""The signals by which a run is asked to stop, and who hears them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""From a person, a system that ends, a terminal that closes, a batch system whose time is over soon."""


def hear_of_children() -> None:
    """Have the kernel keep how a child has ended: it does not in a process whose starter ignored SIGCHLD."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextmanager
def handled(handle: Callable[[int], None]) -> Iterator[None]:
    """Hear signals in this block, where that is possible (main thread).

    Who was started to outlive its terminal (nohup) is deaf to SIGHUP. What the job forks meanwhile ends as it would
    without handlers.

    Args:
        handle: called with a signal's number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def heard(number: int, frame: object) -> None:
        if os.getpid() == own:
            handle(number)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    deaf = {number for number in (signal.SIGHUP,) if signal.getsignal(number) == signal.SIG_IGN}
    before = {number: signal.signal(number, heard) for number in SIGNALS if number not in deaf}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
