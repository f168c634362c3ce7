"""Exchange by NCCL: GPUs by themselves, where each process has one of its own.

What PyTorch's ProcessGroupNCCL does in other ways than a generation needs, and what is asked of it instead:
- a watchdog thread ends the process when a collective fails or takes long, and another one watches that. Neither is
  started where waiting blocks (TORCH_NCCL_BLOCKING_WAIT); only what is complete is waited for here;
- a communicator comes about in the first collective, which waits for the others: so that is begun beside what else the
  process does, by a communicator that may be aborted meanwhile (blocking = 0);
- what a collective reads and writes is its own until it is over: after `abort` the device is waited for.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

import torch

from unisono.frameworks.protocol.device import DeviceFailed
from unisono.frameworks.pytorch.replicas.settings import SECONDS, c10d

ENVIRONMENT = {"TORCH_NCCL_BLOCKING_WAIT": "1", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}
"""Read where a group is made."""

LOOK_SECONDS = 0.001


class Nccl:
    """One group.

    Args:
        device: this process's.

    Attributes:
        group: torch's; None until it is made.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.group: Any = None
        self._is_parted = False

    def meet(self, store: Any, rank: int, ranks: int) -> None:
        """Wait for the others.

        Args:
            store: by which they find each other.
            rank, ranks: this process's place, and how many there are.
        """
        os.environ.update(ENVIRONMENT)
        nccl = c10d.ProcessGroupNCCL
        options = nccl.Options()
        options.config.blocking = 0
        options._timeout = timedelta(seconds=SECONDS)
        self.group = nccl(store, rank, ranks, options)
        if self._is_parted:  # meanwhile
            self.part()
            return
        own = torch.zeros(1, device=self._device)
        work = self.group._allgather_base(own.new_zeros(ranks), own, c10d.AllgatherOptions())
        while not work.is_completed():
            time.sleep(LOOK_SECONDS)
        work.wait()

    def part(self) -> None:
        """Give up what is on its way; the others hear of it as they do of a death.

        Raises:
            DeviceFailed: it does not end.
        """
        self._is_parted = True
        if self.group is None:
            return
        try:
            self.group.abort()
            torch.get_device_module(self._device).synchronize()
        except RuntimeError as error:
            raise DeviceFailed(f"its collectives do not end: {str(error).partition(chr(10))[0]}") from error
        self.group = None
