"""One execution of a job: supervised processes, or everything in this one (debug), with its run folder."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unisono.checkpoint.parameters import save, sha256_of
from unisono.errors import JobError, UnisonoError
from unisono.job import Job
from unisono.memory.segment import Segment
from unisono.observe.logs import LineLog
from unisono.observe.metrics import MetricsFile, TensorBoard
from unisono.observe.progress import Display
from unisono.observe.rundir import RunFolder
from unisono.run import STOP_FILE
from unisono.runtime.failure import Failure
from unisono.runtime.prepare import Described, Request, prepare
from unisono.runtime.program import Round
from unisono.runtime.records import Records
from unisono.runtime.state import HostState
from unisono.runtime.supervisor import Outcome, Supervisor, Watched, steps_done
from unisono.runtime.worker import WorkerFailed
from unisono.usertrace import user_traceback
from unisono.version import __version__


class Interrupts:
    """Remembers the first SIGINT or SIGTERM; the second ends the process at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def _handle(self, number: int, frame: object) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals in this block, where that is possible (main thread)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class Recorder:
    """Hands each record to the files, the display and the job's observers."""

    job: Job
    display: Display
    metrics: MetricsFile | None = None
    tensorboard: TensorBoard | None = None
    records: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, record: dict[str, Any]) -> None:
        """Take a record.

        Raises:
            JobError: an observer failed.
        """
        if self.metrics and self.tensorboard:
            self.metrics.write(record)
            self.tensorboard.write(record)
        else:
            self.records.append(record)
        self.display.update(record)
        for observer in self.job.observers:
            try:
                observer(dict(record))
            except Exception as error:
                name = getattr(observer, "__name__", type(observer).__name__)
                raise JobError(
                    f"{type(error).__name__} in observer {name!r} at step {record['step']}",
                    user_traceback(error),
                ) from error

    def close(self) -> None:
        """Close the files."""
        for file in (self.metrics, self.tensorboard):
            if file:
                file.close()


def execute(
    job: Job,
    request: Request,
    recorder: Recorder,
    folder: RunFolder | None = None,
    debug: bool = False,
    parameters: dict[str, Any] | None = None,
    described: Callable[[Described], None] = lambda _: None,
) -> tuple[Outcome, int | None]:
    """Run a job's rounds.

    Args:
        job: the job.
        request: what of it, on what.
        recorder: takes the records.
        folder: where logs go.
        debug: everything in this process.
        parameters: start from these (by saved name) instead of the model's own.
        described: called when the job is prepared.

    Returns:
        The outcome, and the signal that stopped it, if any.
    """
    interrupts = Interrupts()

    def stopped() -> int | None:
        if interrupts.received is None and folder and (folder.path / STOP_FILE).exists():
            return int(signal.SIGINT)
        return interrupts.received

    def log(name: str) -> LineLog:
        prefix = "" if name == "host" else f"[{name}] "
        return LineLog(folder.log(name) if folder else None, prefix, recorder.display.message)

    with interrupts.handled():
        if debug:
            return _in_process(job, request, recorder, parameters, described, stopped), stopped()
        supervisor = Supervisor(job, request, Watched(recorder, log, described, stopped), parameters)
        return supervisor.run(), stopped()


def _in_process(
    job: Job,
    request: Request,
    recorder: Recorder,
    parameters: dict[str, Any] | None,
    described: Callable[[Described], None],
    stopped: Callable[[], int | None],
) -> Outcome:
    prepared = prepare(job, request)
    described(prepared.described)
    segment = Segment.create(prepared.layout.segment)
    state = HostState(prepared.layout, segment)
    prepared.initialise(state, parameters)
    records = Records(prepared.described, state)
    reader, ring = prepared.reader(), prepared.ring(segment)

    def take(round_: Round, microbatch: int) -> Any:
        """By way of the ring, so that inputs are laid out in memory as a worker sees them."""
        ring.put(round_, microbatch, reader.read(round_, microbatch))
        return ring.get(round_, microbatch)

    def after_round() -> None:
        records.drain(recorder)
        if stopped() is not None:
            records.stop()

    failure: Failure | None = None
    try:
        prepared.worker(0, state, take).run(after_round)
    except WorkerFailed as error:
        failure = error.description
    finally:
        segment.close()
    done = steps_done(list(prepared.program), records.committed)
    return Outcome(prepared.described, state, done, True, stopped() is not None, failure)


def run_in_folder(
    job: Job, request: Request, folder: RunFolder, display: Display, debug: bool, arguments: dict[str, Any]
) -> None:
    """Train a job and keep its run folder.

    Raises:
        UnisonoError: it failed; run.json says so too.
    """
    recorder = Recorder(job, display, MetricsFile(folder.metrics), TensorBoard(folder.path))
    started = time.time()
    folder.update(
        unisono=__version__, command=sys.argv, arguments=arguments, job=job.described(), process=os.getpid(),
        started=datetime.now(UTC).isoformat(timespec="seconds"), exit="running",
        settings={"workers": request.workers, "threads": request.threads, "debug": debug},
    )  # fmt: skip

    def described(plan: Described) -> None:
        shape = plan.layout.shape
        if shape.slots < request.workers and not debug:
            display.message(
                f"{request.workers} workers were asked for; a batch has {shape.slots} non-empty microbatches, "
                f"so {shape.slots} can work. Going on with {shape.slots}."
            )
        folder.update(
            world={"workers": shape.slots, "steps": plan.program.steps},
            fingerprint={**plan.layout.description.fingerprint, "threads": str(request.threads)},
        )
        display.start(plan.program.steps, job.epochs, shape.slots)

    try:
        outcome, number = execute(job, request, recorder, folder, debug, described=described)
        _conclude(folder, outcome, number, time.time() - started)
    except UnisonoError as error:
        if folder.fields.get("exit") == "running":
            folder.update(exit="failed", error=str(error))
        raise
    except BaseException as error:
        folder.update(exit="failed", error=repr(error))
        raise
    finally:
        display.close()
        recorder.close()


def _conclude(folder: RunFolder, outcome: Outcome, number: int | None, seconds: float) -> None:
    tensors, dtypes = outcome.state.saved(outcome.steps_done)
    values: dict[str, Any] = {"steps_done": outcome.steps_done, "seconds": round(seconds, 3)}
    if outcome.consistent:
        save(folder.parameters, tensors, dtypes)
        values["parameters_sha256"] = sha256_of(tensors, dtypes)
    if outcome.failure is not None:
        kept = "the parameters after the last good step are kept" if outcome.consistent else "no parameters were kept"
        folder.update(**values, exit="failed", error=outcome.failure.message)
        raise JobError(
            f"{outcome.failure.message}\nRun folder: {Path(folder.path)} ({kept}).", outcome.failure.traceback
        )
    if outcome.stopped:
        folder.update(**values, exit="interrupted", signal=number)
    else:
        folder.update(**values, exit="completed")
