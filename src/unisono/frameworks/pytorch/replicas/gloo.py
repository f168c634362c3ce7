"""Exchange by gloo, by way of the host's memory: on CPUs, and where workers share a GPU."""

from __future__ import annotations

import os
import socket
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

from unisono.frameworks.pytorch.replicas.settings import SECONDS, c10d


class Gloo:
    """See `Nccl`."""

    def __init__(self) -> None:
        self.group: Any = None
        self._is_left = False
        self._sockets: set[str] = set()

    def meet(self, store: Any, rank: int, ranks: int) -> None:
        """See `Nccl.meet`."""
        before = _sockets()
        gloo = c10d.ProcessGroupGloo
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname="127.0.0.1")]
        options._timeout = timedelta(seconds=SECONDS)
        made = gloo(store, rank, ranks, options)
        found = _sockets() - before
        if not self._is_left:  # else the next group may have met meanwhile, and nothing is on its way here
            self._sockets = found
        self.group = made

    def part(self) -> None:
        """See `Nccl.part`: its connections are broken. Who has not met yet waits on, and is told then."""
        self._is_left = True
        if self.group is None:
            return
        for entry in Path("/proc/self/fd").iterdir():
            try:
                if str(entry.readlink()) not in self._sockets:
                    continue
                with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                    if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # gloo ends the process
                        connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed meanwhile
                continue
        # Taking a group down waits until gloo's threads have seen it.
        threading.Thread(target=_forget, args=([self.group],), daemon=True).start()
        self.group = None


def _sockets() -> set[str]:
    """This process's."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(entry.readlink()))
        except OSError:
            continue
    return {each for each in found if each.startswith("socket:")}


def _forget(group: list[Any]) -> None:
    group.clear()
