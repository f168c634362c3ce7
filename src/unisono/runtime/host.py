"""The supervisor's side of one host: start the warm parent, its loaders and workers; see who ended and why."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from unisono.errors import JobError, UsageError
from unisono.frameworks.registry import FAMILIES, named_beside
from unisono.job import Job
from unisono.planner.devices import out_of_memory_kills
from unisono.runtime.channel import started
from unisono.runtime.deaths import Death
from unisono.runtime.failure import MEMORY_WAYS_OUT, Failure
from unisono.runtime.prepare import Cold, Described, Request

POOLS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS", "NPROC",
)  # fmt: skip
"""What libraries read how many threads to use from, when they are loaded or first used."""

# Weight gradients are large and fresh each time: huge pages save most of their page faults (10 % of an MLP's step).
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@dataclass
class Child:
    """A forked loader or worker.

    Attributes:
        role: "worker" or "loader".
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


def environment() -> dict[str, str]:
    """What a process finds in its environment that works on a job."""
    variables = {**_HUGE_PAGES, **os.environ, **dict.fromkeys(POOLS, "1"), "CUDA_VISIBLE_DEVICES": ""}
    for family in FAMILIES:
        variables = {**family.preferred, **variables, **family.environment}
    return variables


def pickled(job: Any) -> bytes:
    """A job, or what holds one, as it travels.

    Raises:
        UsageError: something in it cannot be pickled.
    """
    try:
        return bytes(cloudpickle.dumps(job))
    except Exception as error:
        raise UsageError(
            f"the job travels to other processes, so all it refers to must be picklable; received: {error}. "
            "Make files, locks and connections inside a function: data=lambda: open_my_data()."
        ) from error


class HostLost(JobError):
    """The warm parent is dead, and its children with it."""


class Host:
    """The processes of this host. Every method runs in the thread that made it.

    Args:
        listen: called with the pipe through which the warm parent's output comes, and with None before it closes.
        wait_for: returns when a file can be read, and takes what is printed meanwhile.
    """

    def __init__(self, listen: Callable[[int | None], None], wait_for: Callable[[int], None]) -> None:
        self._listen, self._wait_for = listen, wait_for
        self._memory_kills = out_of_memory_kills()
        self.children: list[Child] = []
        self._start()

    def _start(self) -> None:
        output, write_end = os.pipe()
        self._process, self._channel = started(
            "unisono.runtime.parent", stdout=write_end, stderr=write_end, env=environment(),
            process_group=0,  # a terminal's Ctrl-C is for the supervisor alone
        )  # fmt: skip
        os.close(write_end)
        self._output = output
        self._listen(output)

    def ask(self, *message: Any, files: Sequence[int] = ()) -> Any:
        """Send a request and wait for the answer.

        Raises:
            UsageError, JobError: the job could not do it.
            HostLost: there is nobody to do it.
        """
        try:
            self._channel.send(message, files)
            self._wait_for(self._channel.socket.fileno())
            answer, _ = self._channel.receive()
        except (EOFError, ConnectionError) as error:
            status = self._process.wait()
            death = Death("the process that holds the job", status, memory=self.lacked_memory(status))
            ways = f" {MEMORY_WAYS_OUT}" if death.memory else ""
            raise HostLost(f"{death.text}; see logs/host.log.{ways}") from error
        if isinstance(answer, Failure):
            if answer.usage:
                raise UsageError(answer.message)
            raise answer.error()
        return answer

    def prepare(self, job: Job, request: Request) -> Described:
        """Have the job made ready.

        Args:
            job: it travels pickled, by value where it is defined in `__main__` or a job file.
            request: what of it.

        Raises:
            UsageError: something in it cannot be pickled, or it breaks a rule.
        """
        payload = pickled(job)
        cold = tuple(family.package for family in named_beside(job.model) if not family.forks_after_computing)
        self.ask("begin", str(Path.cwd()), list(sys.path), payload, cold)
        answer = self.ask("prepare", request)
        if isinstance(answer, Cold):  # it was not to be seen beside model(): start again, knowing it
            self.close()
            self._start()
            self.ask("begin", str(Path.cwd()), list(sys.path), payload, (answer.package,))
            answer = self.ask("prepare", request)
        described: Described = answer
        return described

    def share(self, described: Described, segment: int, event: int, initialise: bool) -> None:
        """Have the first values written to the shared memory, and children forked from then on.

        Args:
            described: what `prepare` gave.
            segment: the shared memory's file.
            event: the file by which children wake the supervisor.
            initialise: whether to write; False where the memory is in use already.
        """
        self.ask("write", initialise, files=[segment])
        self.ask("attend", described, files=[segment, event])

    def fork(self, role: str, number: int, place: int) -> Child:
        """Start a worker or a loader."""
        output, output_end = os.pipe()
        report, report_end = os.pipe()
        os.set_blocking(output, False)
        try:
            process = self.ask("fork", role, number, files=[output_end, report_end])
        finally:
            os.close(output_end)
            os.close(report_end)
        child = Child(role, number, place, process, os.pidfd_open(process), output, report)
        self.children.append(child)
        return child

    def reap(self, child: Child) -> int:
        """The exit code of a child that has ended (−n: killed by signal n)."""
        status = self.ask("reap", child.process)
        self.forget(child)
        return int(status)

    def lacked_memory(self, status: int) -> bool:
        """Whether a process of this host that has just ended so was killed by the kernel because memory ran out."""
        before, self._memory_kills = self._memory_kills, out_of_memory_kills()
        return status == -signal.SIGKILL and self._memory_kills > before

    def forget(self, child: Child) -> None:
        """Close what is held of a child."""
        self.children.remove(child)
        for file in (child.pidfd, child.output, child.report):
            os.close(file)

    def close(self) -> None:
        """Kill everything; nothing is left."""
        self._listen(None)
        for child in list(self.children):
            child.kill()
            self.forget(child)
        self._channel.close()
        self._process.kill()
        self._process.wait()
        os.close(self._output)
