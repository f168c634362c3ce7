"""A group of processes that exchange a round's sums: one of a generation, never torch.distributed's default group."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from unisono.frameworks.protocol import ExchangeLost, Group
from unisono.frameworks.pytorch import devices
from unisono.frameworks.pytorch.replicas.gloo import Gloo
from unisono.frameworks.pytorch.replicas.nccl import Nccl
from unisono.frameworks.pytorch.replicas.settings import SECONDS, c10d
from unisono.machine.gpu_shares import exchange_of


class ReplicaGroup:
    """Collectives that are begun and looked at; the group comes about beside what else its process does.

    Args:
        group: which.
        device: where this process's tensors lie.
        gpu: what it calls its GPU; "" = it has none.

    Attributes:
        rank, ranks: this process's place, and how many there are.
    """

    def __init__(self, group: Group, device: torch.device = devices.CPU, gpu: str = "") -> None:
        self.rank, self.ranks, self._name, self._device, self._gpu = group.rank, group.ranks, group.name, device, gpu
        self._by: Gloo | Nccl | None = None
        self._is_there = self._left = False
        self._error: Exception | None = None
        self._lock = threading.Lock()
        # Now, while the path leads to this generation's file: later it may be another one's.
        file = os.open(group.store, os.O_RDWR | os.O_CLOEXEC)
        threading.Thread(target=self._join, args=(file,), daemon=True).start()

    def _join(self, file: int) -> None:
        """Wait for the others; whoever is still here when the group is given up ends by itself."""
        try:
            store = c10d.FileStore(f"/proc/self/fd/{file}")
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))  # it would write to what its path leads to at its end
            store.set_timeout(timedelta(seconds=SECONDS))
            store = c10d.PrefixStore(self._name, store)
            by = Nccl(self._device) if self._is_by_nccl(store) else Gloo()
            with self._lock:
                self._by = by
                if self._left:
                    by.part()
            by.meet(store, self.rank, self.ranks)
        except Exception as error:  # whatever it is, who looks hears of it
            self._error = error
            return
        finally:
            os.close(file)
        with self._lock:
            self._is_there = not self._left
            if self._left:
                by.part()

    def _is_by_nccl(self, store: Any) -> bool:
        """Whether GPUs exchange by themselves: all processes see the same names, and decide the same."""
        if not self._gpu or not hasattr(c10d, "ProcessGroupNCCL"):
            return False
        store.set(f"gpu-{self.rank}", self._gpu)
        return exchange_of([store.get(f"gpu-{rank}").decode() for rank in range(self.ranks)]) == "nccl"

    def is_there(self) -> bool:
        """Whether all have joined.

        Raises:
            ExchangeLost: they never will.
        """
        if self._error is not None:
            raise _lost(self._error)
        return self._is_there

    # -- collectives, begun by all ranks in the same order, once all are there ---------------------------------

    def room(self, like: Tensor, *shape: int) -> Tensor:
        """Memory of one dtype with a tensor, where collectives read and write."""
        return like.new_empty(shape) if isinstance(self._by, Nccl) else devices.beside(like, *shape)

    def brought(self, values: Tensor) -> Tensor:
        """Values where collectives read them."""
        return values if isinstance(self._by, Nccl) else devices.host_copy(values)

    def all_to_all(self, out: Tensor, values: Tensor, out_splits: Sequence[int], splits: Sequence[int]) -> Work:
        """See `torch.distributed.all_to_all_single`."""
        return self._begin("alltoall_base", out, values, list(out_splits), list(splits), c10d.AllToAllOptions())

    def all_gather(self, out: Tensor, values: Tensor) -> Work:
        """See `torch.distributed.all_gather_into_tensor`."""
        return self._begin("_allgather_base", out, values, c10d.AllgatherOptions())

    def broadcast(self, values: Tensor, rank: int) -> Work:
        """Give all what a rank has, in the same place."""
        options = c10d.BroadcastOptions()
        options.rootRank = rank
        return self._begin("broadcast", [values], options)

    def _begin(self, name: str, *arguments: Any) -> Work:
        assert self._by is not None
        try:
            return Work(getattr(self._by.group, name)(*arguments))
        except RuntimeError as error:
            raise _lost(error) from error

    def leave(self) -> None:
        """Give up what is on its way, here and, soon, in the others; what it reads and writes is free afterwards."""
        with self._lock:
            self._left, self._is_there = True, False
            if self._by is not None:
                self._by.part()


class Work:
    """A collective on its way."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def is_over(self) -> bool:
        """Whether it is.

        Raises:
            ExchangeLost: it failed.
        """
        try:
            if not self._work.is_completed():
                return False
            self._work.wait()  # on a GPU what is computed next is ordered after it
        except RuntimeError as error:
            raise _lost(error) from error
        return True


def _lost(error: Exception) -> ExchangeLost:
    return ExchangeLost(f"a replica's group has lost a process: {str(error).partition(chr(10))[0]}")
