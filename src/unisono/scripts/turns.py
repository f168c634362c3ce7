"""One call at a time in a process, and no signal's handler in the middle of its bookkeeping."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

TURN = threading.RLock()
"""Whose turn it is, of a script's threads."""

_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip

_handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
_noted: list[int] = []


@contextmanager
def unbroken() -> Iterator[None]:
    """A block in which handlers of signals wait: what they raise, or do with a model, comes once it has ended.

    Ctrl-C's `KeyboardInterrupt` comes earlier, where the block waits (`interrupt`).
    """
    if _handlers or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    try:
        with ExitStack() as given_back:
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    handlers[number] = handler
                    given_back.callback(signal.signal, number, handler)
                    signal.signal(number, _note)
            _handlers.update(handlers)
            given_back.callback(_handlers.clear)
            yield
    finally:
        noted = list(_noted)
        _noted.clear()
        for each in noted:
            handlers[each](each, sys._getframe())


def interrupt() -> None:
    """A block under `unbroken` can end here.

    Raises:
        KeyboardInterrupt: somebody has pressed Ctrl-C.
    """
    if signal.SIGINT in _noted and _handlers.get(signal.SIGINT) is signal.default_int_handler:
        _noted.remove(signal.SIGINT)
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    _noted.append(number)
