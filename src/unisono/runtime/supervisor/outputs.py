"""What the processes of a host print, read as it comes and handed on by line."""

from __future__ import annotations

import os
import select
import selectors
import time

from unisono.observe.logs import LineLog

OUTPUT = "output"
"""How a selector's key says that a process has printed something."""


class Outputs:
    """The pipes of all processes.

    Args:
        selector: says when there is something to read.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector = selector
        self._logs: dict[int, LineLog] = {}

    def listen(self, file: int, log: LineLog) -> None:
        """Read a pipe from now on."""
        os.set_blocking(file, False)
        self._logs[file] = log
        self.selector.register(file, selectors.EVENT_READ, OUTPUT)

    def read(self, file: int) -> None:
        """Read what is there."""
        if file not in self._logs:
            return
        try:
            while data := os.read(file, 1 << 16):
                self._logs[file].feed(data)
        except OSError:  # nothing more for now
            return
        self.forget(file)

    def add(self, file: int, data: bytes) -> None:
        """Hand on what has come another way from the process that prints into a pipe: not for everybody's eyes."""
        self._logs[file].take_aside(data)

    def wait_for(self, file: int, seconds: float) -> bool:
        """Read what comes until something can be read from another file: who answers there may print a lot before.

        Args:
            file: the other file.
            seconds: how long.

        Returns:
            Whether something can be read from it.
        """
        end = time.monotonic() + seconds
        while True:
            poll = select.poll()
            for watched in (file, *(log for log in self._logs if log in self.selector.get_map())):
                poll.register(watched, select.POLLIN)
            ready = {number for number, _ in poll.poll(max(0.0, end - time.monotonic()) * 1000)}
            for output in ready - {file}:
                self.read(output)
            if file in ready or time.monotonic() >= end:
                return file in ready

    def close(self, file: int) -> None:
        """Read what is left and stop, unless that is done already."""
        if file in self._logs:
            self.read(file)
            self.forget(file)
            self._logs.pop(file).close()

    def close_all(self) -> None:
        """Stop reading every pipe."""
        for file in list(self._logs):
            self.close(file)

    def forget(self, file: int) -> None:
        """Look no more whether a file can be read."""
        if file in self.selector.get_map():
            self.selector.unregister(file)
