"""A host of a run that another process drives: `python -m unisono.hosts.ray.host_process FILE PARENT`.

It is a process of its own because signals, and the promise that nothing outlives its maker, need a main thread, which
Ray's actors do not give to who answers several calls.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from unisono.errors.failure import Failure, described_error
from unisono.errors.traces import user_traceback
from unisono.frameworks.registry import settle_environment
from unisono.hosts.ray.messages import Ended, Order
from unisono.hosts.ray.train import train_as_host
from unisono.observe.progress import Display
from unisono.runtime.processes.channel import Channel, joined

UPDATE_SECONDS = 0.1


class RemoteDisplay(Display):
    """A display that is somewhere else: each call travels.

    Args:
        channel: the way there.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel, self._lock, self._updated = channel, threading.Lock(), 0.0

    def send(self, *news: Any) -> None:
        """Send; threads take turns. Whoever listened may be gone, and then this process soon is."""
        with self._lock, suppress(OSError):
            self._channel.send(news)

    def start(self, steps: int, epochs: int | None, workers: int) -> None:
        """See `Display`."""
        self.send("start", steps, epochs, workers)

    def update(self, record: dict[str, Any]) -> None:
        """See `Display`; of fast steps some are left out."""
        now = time.monotonic()
        if "loss" in record and now - self._updated < UPDATE_SECONDS:
            return
        self._updated = now if "loss" in record else self._updated
        self.send("update", record)

    def workers(self, alive: int, hosts: int = 1) -> None:
        """See `Display`."""
        self.send("workers", alive, hosts)

    def message(self, text: str) -> None:
        """See `Display`."""
        self.send("message", text)


def _ended(order: Order, shown: RemoteDisplay) -> Ended:
    for entry in reversed(order.path):
        if entry not in sys.path and Path(entry).exists():
            sys.path.insert(0, entry)
    with suppress(OSError):
        os.chdir(order.folder)
    sys.argv = list(order.command)
    settle_environment()
    try:
        work = pickle.loads(order.work)
    except Exception as error:
        text = (
            f"the job's code must be on every host, or travel there; host {order.place.name} cannot read the "
            "job. Have Ray bring the folder (--ship DIR, or ray job submit --working-dir DIR)."
        )
        return Ended(True, Failure(text, user_traceback(error)))
    try:
        left = train_as_host(work, order.place, order.key, shown)
    except Exception as error:
        return Ended(True, described_error(error))
    return Ended(True, None, left=left)


def main(channel: Channel) -> None:
    """Do what the order says; the channel hears what a display hears, and ("ended", Ended) last."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray's processes hold SIGINT back, and theirs inherit that
    order, _ = channel.receive()
    shown = RemoteDisplay(channel)
    shown.send("ended", _ended(order, shown))


if __name__ == "__main__":
    main(joined())
