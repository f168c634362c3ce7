"""A group of processes by torch.distributed's gloo: one of a generation, never the default group."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Sequence
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from unisono.frameworks.protocol import ExchangeLost, Group

c10d: Any = import_module("torch._C._distributed_c10d")
"""Not all that it has is in its stubs."""

SECONDS = 600
"""For which gloo waits for others, of whom nobody may say that they are late: a generation is ended from outside."""


class GlooGroup:
    """Collectives that are begun and looked at; the group comes about beside what else its process does.

    Args:
        group: which.
    """

    def __init__(self, group: Group) -> None:
        self.rank, self.ranks, self._name = group.rank, group.ranks, group.name
        self._group: Any = None
        self._error: Exception | None = None
        self._sockets: set[str] = set()
        self._left = False
        self._lock = threading.Lock()
        # Now, while the path leads to this generation's file: later it may be another one's.
        file = os.open(group.store, os.O_RDWR | os.O_CLOEXEC)
        threading.Thread(target=self._join, args=(file,), daemon=True).start()

    def _join(self, file: int) -> None:
        """Wait for the others, as gloo does; whoever is still here when the group is given up ends by itself."""
        before = _sockets()
        try:
            gloo = c10d.ProcessGroupGloo
            options = gloo._Options()
            options._devices = [gloo.create_device(hostname="127.0.0.1")]
            options._timeout = timedelta(seconds=SECONDS)
            store = c10d.FileStore(f"/proc/self/fd/{file}")
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))  # it would write to what its path leads to at its end
            made = gloo(c10d.PrefixStore(self._name, store), self.rank, self.ranks, options)
        except Exception as error:  # whatever it is, who looks hears of it
            self._error = error
            return
        finally:
            os.close(file)
        with self._lock:
            self._sockets = _sockets() - before
            self._group = made
            if self._left:
                self._break()

    def is_there(self) -> bool:
        """Whether all have joined.

        Raises:
            ExchangeLost: they never will.
        """
        if self._error is not None:
            raise _lost(self._error)
        return self._group is not None

    # -- collectives, begun by all ranks in the same order -----------------------------------------------------

    def all_to_all(self, out: Tensor, values: Tensor, out_splits: Sequence[int], splits: Sequence[int]) -> Work:
        """See `torch.distributed.all_to_all_single`."""
        return self._begin(
            lambda: self._group.alltoall_base(out, values, list(out_splits), list(splits), c10d.AllToAllOptions())
        )

    def all_gather(self, out: Tensor, values: Tensor) -> Work:
        """See `torch.distributed.all_gather_into_tensor`."""
        return self._begin(lambda: self._group._allgather_base(out, values, c10d.AllgatherOptions()))

    def broadcast(self, values: Tensor, rank: int) -> Work:
        """Give all what a rank has, in the same place."""
        options = c10d.BroadcastOptions()
        options.rootRank = rank
        return self._begin(lambda: self._group.broadcast([values], options))

    @staticmethod
    def _begin(act: Any) -> Work:
        try:
            return Work(act())
        except RuntimeError as error:
            raise _lost(error) from error

    def leave(self) -> None:
        """Give up what is on its way, here and, soon, in the others: its connections are broken."""
        with self._lock:
            self._left = True
            if self._group is not None:
                self._break()

    def _break(self) -> None:
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
        threading.Thread(target=_forget, args=([self._group],), daemon=True).start()
        self._group = None


class Work:
    """A collective on its way."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def is_over(self) -> bool:
        """Whether it is.

        Raises:
            ExchangeLost: it failed.
        """
        if not self._work.is_completed():
            return False
        try:
            self._work.wait()
        except RuntimeError as error:
            raise _lost(error) from error
        return True


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


def _lost(error: Exception) -> ExchangeLost:
    return ExchangeLost(f"a replica's group has lost a process: {str(error).partition(chr(10))[0]}")
