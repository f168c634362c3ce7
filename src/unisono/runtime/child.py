"""A process that the warm parent has forked, as its supervisor holds it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from dataclasses import dataclass

from unisono.runtime.failure import Failure


@dataclass
class Child:
    """A forked loader, worker or profiler.

    Attributes:
        role: "worker", "loader" or "profiler".
        number: the member's or the loader's number.
        place: the worker's or loader's place, by which people know it.
        process, pidfd: the process.
        output, report: what it prints, and how it says why it failed.
    """

    role: str
    number: int
    place: int
    process: int
    pidfd: int
    output: int
    report: int

    @property
    def name(self) -> str:
        """How people see it."""
        return f"{self.role} {self.place}"

    def failure(self) -> Failure | None:
        """What it reported before it ended."""
        held = b""
        while data := os.read(self.report, 1 << 16):
            held += data
        return pickle.loads(held) if held else None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)
