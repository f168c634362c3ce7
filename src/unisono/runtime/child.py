"""A process that the warm parent has forked, as its supervisor holds it."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass, field

from unisono.runtime.report import Report


@dataclass
class Child:
    """A forked loader, worker or profiler.

    Attributes:
        role: "worker", "loader" or "profiler".
        number: the member's or the loader's number.
        place: the worker's or loader's place, by which people know it.
        process, pidfd: the process.
        output, report: what it prints, and how it says how it has ended.
        told: what it has said so far.
    """

    role: str
    number: int
    place: int
    process: int
    pidfd: int
    output: int
    report: int
    told: Report = field(default_factory=Report)

    @property
    def name(self) -> str:
        """How people see it."""
        return f"{self.role} {self.place}"

    def hear(self) -> bytes | None:
        """Take what has come through `report`; returns the stacks in it, None at the pipe's end."""
        return self.told.read(self.report)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)
