"""Messages between hosts by torch.distributed's gloo, and who cannot be reached by it.

A connection breaks by itself, in the kernel, where the other host's kernel does not answer for some time: whatever its
processes do, or wait for, a healthy connection lasts. Then the hosts come together anew, and who does not answer by new
connections either is unreachable for this host.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from unisono.frameworks.protocol import Array
from unisono.hosts.arrays import flat
from unisono.hosts.ports import drawn
from unisono.hosts.store import torch_distributed
from unisono.hosts.transport import ConnectionLost, Pending, wait_for
from unisono.hosts.waiting import until

NEVER = timedelta(days=365)
"""Messages have no time limit of their own: a slow host is no lost one."""

HELLO_BYTES = 1 << 16
"""Of the first message: packets of full size carry it, which some broken networks swallow while small ones pass."""

LOOK_SECONDS = 0.02


class Unreachable(Exception):
    """Hosts that are there do not answer by new connections.

    Args:
        hosts: which.
        seconds: for how long.
    """

    def __init__(self, hosts: tuple[int, ...], seconds: float) -> None:
        super().__init__(f"no answer by a new connection for {seconds:g} s")
        self.hosts = hosts


def in_short(error: Exception) -> str:
    """What gloo says, without its source file and its guesses.

    >>> in_short(RuntimeError("[/gloo/pair.cc:553] Connection closed by peer [a]:5. This is typically caused by"))
    'Connection closed by peer [a]:5'
    """
    text = str(error).partition("\n")[0]
    return re.sub(r"^\[\S+:\d+\] ", "", text).partition(". ")[0]


@dataclass
class _Work:
    """A message of torch.distributed on its way; keeps its memory alive."""

    work: Any
    tensor: Any
    host: int

    def wait(self) -> None:
        try:
            self.work.wait(NEVER)
        except RuntimeError as error:
            raise ConnectionLost(self.host, in_short(error)) from error


class GlooTransport:
    """Messages by gloo, in a group of connections for each direction.

    gloo's thread turns in circles while another one sends on the connection that it would receive from, and a message
    that says where to write queues behind all that is sent the same way.

    Args:
        store: where its processes find each other.
        address: the address that it listens on.
        host, hosts: which one this is, of how many.
        timeout: seconds for which another host may not answer.
        ports: those on which it may listen, or None.
    """

    def __init__(
        self, store: Any, address: str, host: int, hosts: int, timeout: float, ports: range | None = None
    ) -> None:
        from torch import from_numpy

        c10d = torch_distributed()
        gloo = c10d.ProcessGroupGloo
        listening: set[int] = set()

        def device() -> Any:
            return gloo.create_device(hostname=address, lazy_init=True)

        def port(device: Any) -> int:
            (own,) = listeners() - listening
            return own

        def group(name: str) -> Any:
            options = gloo._Options()
            # Lazy: a pair connects with its first message, so that one which cannot does not keep the others from it.
            # Two lazy groups on one device never connect: each has its own.
            options._devices = [device() if ports is None else drawn(device, port, ports)]
            listening.update(listeners())
            options._timeout = timedelta(seconds=timeout)
            return gloo(c10d.PrefixStore(name, store), host, hosts, options)

        self._up, self._down = group("up"), group("down")
        self._from_numpy = from_numpy
        self._store, self._host, self._hosts, self._timeout = store, host, hosts, timeout

    def send(self, array: Array, host: int, tag: int) -> Pending:
        """See `Transport`."""
        group = self._up if host > self._host else self._down
        return self._begin(group.send, array, host, tag)

    def receive(self, array: Array, host: int, tag: int) -> Pending:
        """See `Transport`."""
        group = self._up if host < self._host else self._down
        return self._begin(group.recv, array, host, tag)

    def _begin(self, act: Any, array: Array, host: int, tag: int) -> Pending:
        tensor = self._from_numpy(flat(array))
        try:
            return _Work(act([tensor], host, tag), tensor, host)
        except RuntimeError as error:
            raise ConnectionLost(host, in_short(error)) from error

    def meet(self) -> None:
        """Connect each to each; returns once all hosts have.

        Raises:
            Unreachable: this one cannot reach some of them.
        """
        self._wait_for_all("here")  # however late they come: only who is there can be unreachable
        others = [other for other in range(self._hosts) if other != self._host]
        reached: set[int] = set()
        for other in others:
            # gloo blocks until a pair is connected, for longer than it is told: a thread that stays so is left behind.
            threading.Thread(target=self._greet, args=(other, reached), daemon=True).start()
        if not until(lambda: len(reached) == len(others), self._timeout, LOOK_SECONDS):
            raise Unreachable(tuple(other for other in others if other not in reached), self._timeout)
        for connection in connections():
            break_when_silent(connection, self._timeout)
        self._wait_for_all("met")

    def _wait_for_all(self, key: str) -> None:
        """As a host that is lost meanwhile is noticed elsewhere, and this process ended, there is no limit."""
        self._store.add(key, 1)
        until(lambda: self._store.add(key, 0) >= self._hosts, pause=LOOK_SECONDS)

    def _greet(self, other: int, reached: set[int]) -> None:
        try:
            # In the same order on both sides: a pair's first message blocks until both are there.
            first, second = (self.send, self.receive) if other > self._host else (self.receive, self.send)
            wait_for([act(np.zeros(HELLO_BYTES, np.uint8), other, 0) for act in (first, second)])
        except ConnectionLost:
            return  # where the other process has died, its host says so; else the time runs out
        reached.add(other)


def connections() -> Iterator[socket.socket]:
    """This process's TCP sockets, whoever has made them; each is lent until the next one is asked for."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found = socket.socket(fileno=int(entry.name))
        except OSError:  # no socket, or closed meanwhile
            continue
        if found.type == socket.SOCK_STREAM and found.family in (socket.AF_INET, socket.AF_INET6):
            yield found
        found.detach()


def listeners() -> set[int]:
    """The ports on which this process listens."""
    return {
        connection.getsockname()[1]
        for connection in connections()
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    }


def break_when_silent(connection: socket.socket, seconds: float) -> None:
    """Have the kernel break a connection whose other end's kernel does not answer for so long.

    Args:
        connection: it.
        seconds: how long.
    """
    pause = max(1, int(seconds / 3))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, pause)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, pause)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))
