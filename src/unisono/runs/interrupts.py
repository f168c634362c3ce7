"""The signals that end a run, and its time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from unisono.errors import Interrupted
from unisono.runtime.processes.signals import handled
from unisono.runtime.rules.shutdown import OUT_OF_TIME, Shutdown


class Interrupts:
    """Remembers the first of `SIGNALS`; a second SIGINT or SIGTERM ends the process at once.

    Args:
        seconds: time after which the run is asked to stop as if by SIGTERM, or None.
        at_once: called with the second signal's number, before the process ends.
        leaves: whether one of several hosts leaves alone, where a system sends the signal; Ctrl-C ends the run.
        since: when the time began, on the monotonic clock; None = now.
    """

    def __init__(
        self, seconds: float | None = None, at_once: Callable[[int], None] = lambda number: None, leaves: bool = False,
        since: float | None = None,
    ) -> None:  # fmt: skip
        self.received: int | None = None
        self._at_once, self._leaves, self._raises = at_once, leaves, False
        self._end = None if seconds is None else (time.monotonic() if since is None else since) + seconds
        self._out_of_time = False

    def __call__(self) -> Shutdown | None:
        """Why the run is asked to stop, if it is."""
        if self.received is None and self._end is not None and time.monotonic() >= self._end:
            self._out_of_time, self.received = True, signal.SIGTERM
        if self.received is None:
            return None
        if self._out_of_time:
            return Shutdown(False, OUT_OF_TIME)
        return Shutdown(self._leaves and self.received != signal.SIGINT, self.received)

    def _handle(self, number: int) -> None:
        if self.received is None:
            self.received = number
            if self._raises:
                raise KeyboardInterrupt
        elif number in (signal.SIGINT, signal.SIGTERM):  # a closing terminal sends SIGHUP twice: by its shell as well
            self._at_once(number)
            os._exit(128 + number)

    def handled(self) -> AbstractContextManager[None]:
        """Handle signals in a block (see `signals.handled`)."""
        return handled(self._handle)

    @contextmanager
    def obeyed(self) -> Iterator[None]:
        """For a block that runs code of the job's in this thread, which may hang: the first signal ends it.

        Raises:
            Interrupted: it came.
        """
        self._raises = True
        try:
            if self.received is not None:
                raise Interrupted
            yield
        except KeyboardInterrupt:
            if self.received is None:
                raise
            raise Interrupted from None
        finally:
            self._raises = False
