"""Processes of a script that hang are told apart from those that compute, judged as a job's are."""

from __future__ import annotations

import select
import signal
from collections.abc import Hashable
from contextlib import suppress

import psutil

from unisono.errors.failure import STACK_SIGNAL
from unisono.runtime.processes.channel import Channel
from unisono.runtime.processes.stacks import STACK_SECONDS
from unisono.runtime.rules.stalls import STOPPED, Patience, Stalls
from unisono.runtime.supervisor.delays import LOOK_SECONDS, Delays
from unisono.scripts.pytorch.process import Process
from unisono.scripts.said import say

ASLEEP_SECONDS = 60.0
"""How long a process may do nothing at all."""


class Judge:
    """Tells who hangs: who has not run for too long, and could have.

    A call may compute for as long as it likes, as it may in the script itself.
    """

    def __init__(self) -> None:
        self._asleep, self._stopped, self._delays = Stalls(ASLEEP_SECONDS), Stalls(), Delays()

    def begin(self) -> None:
        """The script begins to wait; time before was its own."""
        self._delays.begin()

    def due(self) -> float:
        """See `Delays.due`."""
        return self._delays.due()

    def hangs(self, number: int, asked: Hashable, elapsed: float) -> bool:
        """Look at a process.

        Args:
            number: the process's.
            asked: what it has been asked for.
            elapsed: seconds since the last look.
        """
        stalls, kind = (self._stopped, STOPPED) if self.stopped(number) else (self._asleep, "asked")
        mark = asked, _ran(number)
        return stalls.look(number, kind, (), mark, elapsed, lambda: self.held_up(number, elapsed))

    def held_up(self, number: int, elapsed: float) -> float:
        """Seconds since the last look in which a process could not run."""
        return self._delays.of(number, elapsed)

    def stopped(self, number: int) -> bool:
        """Whether somebody had stopped a process at the last look."""
        return self._delays.stopped(number)

    def forget(self, number: int) -> None:
        """It has ended."""
        self._asleep.forget(number)
        self._stopped.forget(number)
        self._delays.forget(number)


class Hangs:
    """Ends workers that hang.

    Attributes:
        judge: tells who they are.
    """

    def __init__(self) -> None:
        self.judge = Judge()
        self._dumping: dict[Process, Patience] = {}

    def look(self, name: str, process: Process, asked: Hashable, elapsed: float) -> None:
        """Look at a worker; one that hangs is killed, once it has had the time to print its Python stack.

        Args:
            name: how people know it.
            process: it.
            asked, elapsed: see `Judge`.
        """
        number, patience = process.number, self._dumping.get(process)
        if patience is not None:
            if patience.spend(elapsed, self.judge.held_up(number, elapsed)):
                process.send(signal.SIGKILL)
        elif self.judge.hangs(number, asked, elapsed):
            self._dumping[process] = Patience(STACK_SECONDS)
            if self.judge.stopped(number):
                say(f"{name} makes no progress: it was stopped from outside (SIGSTOP), and is replaced.")
                process.send(signal.SIGKILL)
            else:
                say(f"{name} makes no progress, and is replaced; it stands here:")
                process.send(STACK_SIGNAL)

    def is_to_blame(self, process: Process) -> bool:
        """Whether what a process worked on made it hang."""
        return process in self._dumping and not self.judge.stopped(process.number)

    def forget(self, process: Process) -> None:
        """It has ended."""
        self.judge.forget(process.number)
        self._dumping.pop(process, None)


def await_answer(channel: Channel, number: int) -> None:
    """Wait until a process answers or ends.

    Args:
        channel: the way to it.
        number: its own.

    Raises:
        ConnectionError: it hangs.
    """
    judge = Judge()
    judge.begin()
    while not select.select([channel.socket], [], [], LOOK_SECONDS)[0]:
        if (elapsed := judge.due()) and judge.hangs(number, (), elapsed):
            raise ConnectionError


def _ran(number: int) -> float:
    """Seconds for which a process has run; 0 where it has ended: that is seen soon."""
    with suppress(psutil.Error):
        return float(sum(psutil.Process(number).cpu_times()[:2]))
    return 0.0
