"""The supervisor of a run: owns the shared memory, watches the processes, turns rounds into records."""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from unisono.errors import JobError
from unisono.job import Job
from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.observe.logs import LineLog
from unisono.runtime.failure import MEMORY_WAYS_OUT, Failure
from unisono.runtime.host import Child, Host
from unisono.runtime.prepare import Described, Request
from unisono.runtime.program import Round
from unisono.runtime.records import Records
from unisono.runtime.state import HostState

TICK_SECONDS = 0.05


@dataclass
class Watched:
    """What the supervisor's owner wants to hear.

    Attributes:
        record: called with each merged record.
        described: called once, when the job is prepared.
        log: (name) → where a process's output goes.
        signal: the signal that asked the run to stop, if any.
    """

    record: Callable[[dict[str, Any]], None]
    log: Callable[[str], LineLog]
    described: Callable[[Described], None] = field(default=lambda _: None)
    signal: Callable[[], int | None] = field(default=lambda: None)


@dataclass
class Outcome:
    """How a run ended: the state (None when it cannot be trusted), steps done, and why if it failed."""

    described: Described
    state: HostState
    steps_done: int
    consistent: bool
    stopped: bool
    failure: Failure | None


def steps_done(rounds: list[Round], committed: int) -> int:
    """Training steps among the first `committed` rounds."""
    return sum(1 for round_ in rounds[:committed] if round_.evaluation is None)


class Supervisor:
    """Runs a job on this host's processes."""

    def __init__(self, job: Job, request: Request, watched: Watched, parameters: dict[str, Any] | None = None) -> None:
        self._job, self._request, self._watched, self._parameters = job, request, watched, parameters
        self._logs: dict[int, LineLog] = {}
        self._selector = selectors.DefaultSelector()
        self._failure: Failure | None = None

    def run(self) -> Outcome:
        """Run to the end, to a failure or to a stop."""
        host = Host()
        try:
            self._listen(host.output, self._watched.log("host"))
            return self._run(host)
        finally:
            self._drain_output()
            host.close()
            self._selector.close()
            for log in self._logs.values():
                log.close()

    def _run(self, host: Host) -> Outcome:
        host.send_job(self._job)
        described: Described = host.ask("prepare", self._request)
        self._watched.described(described)
        segment = Segment.create(described.layout.segment)
        try:
            state = HostState(described.layout, segment)
            host.ask("memory", self._parameters, files=[segment.file])
            records = Records(described, state)
            slots = described.layout.shape.slots
            loaders = max(1, min(slots, len(self._request.cores)))
            for index in range(loaders):
                self._watch(host.fork("loader", index | loaders << 16))
            for slot in range(slots):
                self._watch(host.fork("worker", slot))
            stopped = self._supervise(host, records)
            records.drain(self._watched.record)
            return self._outcome(described, state, records, stopped)
        finally:
            segment.close()

    def _outcome(self, described: Described, state: HostState, records: Records, stopped: bool) -> Outcome:
        committed = records.committed
        progress = Words(state.segment, "progress", 0.0)
        begun = [
            progress.get(slot) > committed * 2 * (len(chunks) + 1)
            for slot, chunks in enumerate(described.layout.slices)
        ]
        rounds = list(described.program)
        done = steps_done(rounds, committed)
        return Outcome(
            described, state, done, not any(begun), stopped and done < described.program.steps, self._failure
        )

    # -- watching ------------------------------------------------------------------------------------------

    def _listen(self, file: int, log: LineLog) -> None:
        os.set_blocking(file, False)
        self._logs[file] = log
        self._selector.register(file, selectors.EVENT_READ, None)

    def _watch(self, child: Child) -> None:
        self._listen(child.output, self._watched.log(child.name))
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)

    def _drain_output(self) -> None:
        for file in list(self._logs):
            self._read(file)

    def _read(self, file: int) -> None:
        try:
            while data := os.read(file, 1 << 16):
                self._logs[file].feed(data)
        except (BlockingIOError, OSError):
            return
        if file in self._selector.get_map():
            self._selector.unregister(file)

    def _supervise(self, host: Host, records: Records) -> bool:
        """Until every worker has ended or one has failed; returns whether a stop was asked for."""
        stopped = False
        while any(child.role == "worker" for child in host.children):
            for key, _ in self._selector.select(TICK_SECONDS):
                if key.data is None:
                    self._read(key.fd)
                elif not self._ended(host, key.data):
                    return stopped
            records.drain(self._watched.record)
            if not stopped and self._watched.signal() is not None:
                records.stop()
                stopped = True
        return stopped

    def _ended(self, host: Host, child: Child) -> bool:
        """See why a child ended; False when the run cannot go on."""
        self._read(child.output)
        reported = child.failure()
        for file in (child.output, child.pidfd):
            if file in self._selector.get_map():
                self._selector.unregister(file)
        self._logs.pop(child.output).close()
        status = host.reap(child)
        if status == 0:
            return True
        if reported is None and status == -signal.SIGKILL:
            reported = Failure(f"{child.name} was killed (SIGKILL), perhaps because memory ran out. {MEMORY_WAYS_OUT}")
        elif reported is None and status < 0:
            reported = Failure(f"{child.name} was ended by {signal.Signals(-status).name}; see logs/.")
        self._failure = reported or Failure(f"{child.name} ended with status {status}; see logs/.")
        return False


def raise_failure(outcome: Outcome) -> None:
    """Raise what made the run fail.

    Raises:
        JobError: it failed.
    """
    if outcome.failure is not None:
        raise JobError(outcome.failure.message, outcome.failure.traceback)
