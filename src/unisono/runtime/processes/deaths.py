"""A process's death as a value: what to call it, and whether it was the process's own fault."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from unisono.errors.failure import MEMORY_WAYS_OUT, Failure
from unisono.runtime.rules.crew import STRIKES, Work
from unisono.runtime.rules.rounds import Rounds
from unisono.runtime.rules.shutdown import signal_name

OWN_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}

CLOSED_STATUS = 121
"""The exit status of a process that cannot answer, because its end of the way to the supervisor was closed in it."""


@dataclass(frozen=True)
class Death:
    """How a process ended.

    Attributes:
        name: of the process, as people know it.
        status: its exit code; −n: killed by signal n.
        hung: it made no progress and was therefore killed.
        memory: the kernel killed it because memory ran out.
        device: what its device has said before; "" = nothing.
        ways: the ways out of it, where it is known what does not suffice.

    >>> Death("worker 1", -11).text, Death("worker 1", -11).own_fault, Death("worker 1", -9).own_fault
    ('worker 1 was ended by SIGSEGV', True, False)
    """

    name: str
    status: int
    hung: bool = False
    memory: bool = False
    device: str = ""
    ways: str = ""

    @property
    def own_fault(self) -> bool:
        """Whether what it worked on is to blame, not somebody outside."""
        return self.hung or self.memory or self.status >= 0 or -self.status in OWN_FAULTS

    @property
    def text(self) -> str:
        """What to tell a person."""
        if self.hung:
            return f"{self.name} made no progress and was ended (its stack is in logs/)"
        if self.device:
            return f"{self.name} has lost its GPU: {self.device.rstrip('.')}"
        if self.memory:
            return f"{self.name} was killed because memory ran out"
        if self.status == CLOSED_STATUS:
            return (
                f"{self.name} can answer no more: the job's code has closed files that it did not open, by number "
                "(os.closerange, os.close). Have it close its own only"
            )
        if self.status < 0:
            return f"{self.name} was ended by {signal_name(-self.status)}"
        return f"{self.name} ended itself with status {self.status}"


def given_up(death: Death, work: Work | None, rounds: Rounds, stack: str = "") -> Failure:
    """The end of a run in which the same work killed its worker too often.

    Args:
        death: the last one.
        work: what it was at; None = it could not work yet.
        rounds: the run's.
        stack: where the last one stood, in the job's code.
    """
    where = "before it could work"
    if work is not None:
        step, round_ = rounds.position(work.round)[0], rounds.next(work.round)
        where = f"step {step + 1}" if round_ is None or round_.evaluation is None else f"evaluation after step {step}"
        if work.microbatch >= 0:
            where += f", microbatch {work.microbatch}"
        if work.sample >= 0:
            where += f", sample {work.sample}"
    ways = f" {death.ways or MEMORY_WAYS_OUT}" if death.memory or death.ways else ""
    return Failure(f"{death.text}, {STRIKES} times in a row at the same place ({where}); see logs/.{ways}", stack)
