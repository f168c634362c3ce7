"""Failures scripted by (phase, round, slot, chunk), and a job's undisturbed result to compare with."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono import Job
from unisono.checkpoint.parameters import sha256_of
from unisono.observe.progress import Silent
from unisono.runs.execution import execute
from unisono.runs.observation import Observation
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.outcome import Outcome, raise_failure
from warm import host_for

CORES = tuple(sorted(os.sched_getaffinity(0)))
KILLS = [signal.SIGKILL, signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT]
LOOP, DEADLOCK = 0, -1


@dataclass(frozen=True)
class Fault:
    """Once, when a slot reaches a phase of a round: a signal, LOOP (an endless one) or DEADLOCK."""

    phase: str
    round: int
    slot: int
    chunk: int | None = None
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Script:
    """What happens when; each fault once, whoever gets there first."""

    folder: Path
    faults: tuple[Fault, ...]

    def __call__(self, phase: str, round_: int, slot: int, chunk: int) -> None:
        for number, fault in enumerate(self.faults):
            here = (phase, round_, slot) == (fault.phase, fault.round, fault.slot)
            if here and fault.chunk in (None, chunk) and self._claim(number):
                if fault.signal == DEADLOCK:
                    threading.Event().wait()
                while fault.signal == LOOP:
                    pass
                os.kill(os.getpid(), fault.signal)

    def _claim(self, number: int) -> bool:
        try:
            os.close(os.open(self.folder / f"fault-{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    @property
    def struck(self) -> int:
        """How many faults have happened."""
        return len(list(self.folder.glob("fault-*")))


@dataclass(frozen=True)
class Starved:
    """Once: a worker's microbatch goes on until it has waited for a core for so long, which another process takes.

    Attributes:
        done: a file that says so.
        core: the core.
        seconds: how long.
    """

    done: Path
    core: int
    seconds: float

    def __call__(self, phase: str, round_: int, slot: int, chunk: int) -> None:
        if (phase, round_, slot) == ("microbatch", 5, 1) and not self.done.exists():
            os.sched_setaffinity(0, {self.core})
            os.nice(19)
            enough = self._waited() + self.seconds
            while self._waited() < enough:
                sum(range(10_000))
            self.done.touch()

    def _waited(self) -> float:
        """Seconds for which this thread has stood in the queue for a core."""
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9

    @property
    def rival(self) -> list[str]:
        """The command of the other process."""
        wait = f"import os\nwhile not os.path.exists({str(self.done)!r}): sum(range(100_000))"
        return ["taskset", "-c", str(self.core), sys.executable, "-c", wait]


class Handicap:
    """Makes the process that works for slot 1 a slow one."""

    slow = False

    def __call__(self, phase: str, round_: int, slot: int, chunk: int) -> None:
        Handicap.slow = slot == 1


def hash_of(outcome: Outcome) -> str:
    """The parameters' hash and that of the optimizers' state."""
    steps = outcome.steps_done
    return sha256_of(outcome.state.saved(steps)) + sha256_of(outcome.state.optimizer(steps))


def run(job: Job, workers: int = 0, **request: Any) -> tuple[Outcome, list[dict[str, Any]], list[str]]:
    """Run a job without a folder; 0 workers = in this process. Returns outcome, records and messages."""
    seen = Observation(job, Silent())
    messages: list[str] = []
    seen.display.message = messages.append  # type: ignore[method-assign]
    threads = request.pop("threads", 1)
    host = host_for(job) if workers else None
    outcome = execute(job, Request(max(workers, 1), threads, CORES, **request), seen, not workers, host)
    return outcome, seen.records, messages


def undisturbed(job: Job) -> tuple[str, list[dict[str, Any]]]:
    """Hash and records of the job in one process."""
    outcome, records, _ = run(job)
    raise_failure(outcome)
    return hash_of(outcome), records
