"""A process that the warm parent has forked, as its supervisor holds it: a child of this process from the start."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field

from unisono.runtime.processes.lifeline import Adoption, status_of
from unisono.runtime.processes.report import Report


class Birth:
    """A process that is about to be forked: the pipes between it and this one, which adopts it.

    Attributes:
        theirs: its ends.

    Raises:
        OSError: this process is at a limit.
    """

    def __init__(self) -> None:
        self._files: list[int] = []
        try:
            for _ in range(2):
                self._files += os.pipe()
            self._adoption = Adoption()
        except OSError:
            self._close(self._files)
            raise
        self._mine = self._files[::2]
        self.theirs = (*self._files[1::2], self._adoption.start)

    def sent(self) -> None:
        """Who forks it has its ends."""
        self._close(self.theirs)

    def fails(self) -> None:
        """It is not forked, or not wanted any more; if it is there, it ends."""
        self._adoption.fails()
        self._close(self._mine)

    def succeeds(self, role: str, number: int, place: int, process: int) -> Child:
        """It is there, and is told to begin.

        Args:
            role, number, place, process: see `Child`.

        Raises:
            OSError: this process is at a limit; the other one ends.
        """
        try:
            pidfd = self._adoption.begins(process)
        except OSError:
            self._close(self._mine)
            raise
        for end in self._mine:
            os.set_blocking(end, False)
        output, report = self._mine
        return Child(role, number, place, process, pidfd, output, report)

    @staticmethod
    def _close(files: Iterable[int]) -> None:
        for file in files:
            os.close(file)


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

    def bury(self) -> int:
        """Close what is held of it, once it has ended; returns its exit code (−n: killed by signal n)."""
        status = status_of(self.pidfd)
        for file in (self.pidfd, self.output, self.report):
            os.close(file)
        return status
