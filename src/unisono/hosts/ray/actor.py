"""The actor that Ray runs on each host: it starts the host's Unisono, and is the way between it and the driver."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace

from unisono.hosts.ray.messages import Ended, News, Order
from unisono.runtime.processes.channel import Channel, started

HEAR_SECONDS = 2.0
CALLS = 4
"""Calls that the actor answers at once: run, hear, stop, and one to spare."""


class RayHost:
    """What becomes an actor. Where it ends, however it does, all that it has started ends too."""

    def __init__(self) -> None:
        self._news: list[News] = []
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._stops = False

    def name(self) -> str:
        """The host's name."""
        return socket.gethostname()

    def run(self, order: Order) -> tuple[Ended, list[News]]:
        """Take part in a run to its end; returns how it ended, and news that nobody has heard.

        Args:
            order: what to do.
        """
        order = replace(order, path=(*order.path, *sys.path))
        # Started by the thread that waits for it: the kernel ends a process whose maker's thread ends.
        process, channel = started("unisono.hosts.ray.host_process")
        channel.send(order)
        with self._changed:
            self._process = process
            if self._stops:
                process.send_signal(signal.SIGINT)
        ended = self._listen(channel)
        status = process.wait()
        channel.close()
        with self._changed:
            rest, self._news = self._news, []
        return ended or Ended(False, None, status), rest

    def _listen(self, channel: Channel) -> Ended | None:
        while True:
            try:
                news, _ = channel.receive()
            except (EOFError, ConnectionError):
                return None
            if news[0] == "ended":
                ended: Ended = news[1]
                return ended
            with self._changed:
                self._news.append(news)
                self._changed.notify_all()

    def hear(self) -> list[News]:
        """What is new, as soon as something is, or nothing after a while."""
        with self._changed:
            self._changed.wait_for(lambda: self._news, HEAR_SECONDS)
            news, self._news = self._news, []
            return news

    def stop(self) -> None:
        """Have the run end after the step at hand, with a checkpoint: Ctrl-C never means this host alone."""
        with self._changed:
            self._stops = True
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)
