"""A run and its folder: what `train` and `start` give back and `open` attaches to."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from unisono.errors import JobError, UnisonoError, UsageError
from unisono.errors.traces import user_traceback
from unisono.frameworks.registry import Framework, made
from unisono.job import Job
from unisono.observe.metrics import METRICS, read_metrics
from unisono.observe.run_folder import read_run, signal_of, status_of
from unisono.runs.jobfile import JobFile, loaded
from unisono.runs.saved import parameters_file
from unisono.runtime.loader.samples import Example
from unisono.runtime.preparation.open_data import open_data
from unisono.runtime.supervisor import control_socket as control
from unisono.runtime.supervisor.answers import readable
from unisono.values import bounds

EXIT_STATUS = {"completed": 0, "left": 0, "failed": 1}


class Run:
    """A finished or running run.

    Args:
        directory: its folder.
        job: the job that it trains, or its file.
        unwritten: run.json of a run of this process, where the disk has not taken that; None = it has.
    """

    def __init__(self, directory: Path, job: Job | JobFile, unwritten: dict[str, Any] | None = None) -> None:
        self.directory, self._job, self._unwritten = directory, job, unwritten
        self.thread: threading.Thread | None = None  # that runs it, if this process does
        self.errors: list[BaseException] = []

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r}, status={self.status!r})"

    @cached_property
    def job(self) -> Job:
        """The job that it trains; a file is run in this process for it."""
        return loaded(self._job, travels=True).job

    @property
    def manifest(self) -> dict[str, Any]:
        """run.json as it is now."""
        return read_run(self.directory) if self._unwritten is None else self._unwritten

    @property
    def status(self) -> str:
        """ "running", "completed", "interrupted", "failed", or "left": this host did, and others went on."""
        status = status_of(self.manifest)
        is_over = self.thread is not None and not self.thread.is_alive()
        return "failed" if status == "running" and is_over else status

    @property
    def exit_status(self) -> int:
        """What the command returns: 0 done, or left to others, 1 failed, 128 + signal when interrupted."""
        return EXIT_STATUS.get(self.status, 128 + signal_of(self.manifest))

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every record of metrics.jsonl so far."""
        return read_metrics(self.directory / METRICS)

    @property
    def parameters_sha256(self) -> str:
        """The hash of the final parameters; equal hashes are equal bits.

        Raises:
            JobError: the run has saved none.
        """
        value = self.manifest.get("parameters_sha256")
        if not value:
            raise JobError(f"a run has final parameters once it ended well; {self.directory} is {self.status!r}.")
        return str(value)

    def model(self, which: str | int = "final") -> Any:
        """The job's model with this run's parameters, in this process.

        Args:
            which: "final", "best" (see `Job.best`), or a step that has a checkpoint.

        Raises:
            UsageError: another name, or nothing saved.
        """
        return self._restored(which)[1]

    def _restored(self, which: str | int) -> tuple[Framework, Any]:
        path = parameters_file(self.directory, which)
        framework, model = made(self.job, 1)
        functions = framework.data
        model = framework.adapter.restored(
            self.job, model, path, lambda: Example(self.job, open_data(self.job, functions), functions)()
        )
        return framework, model

    def infer(self, inputs: Iterable[Any], which: str | int = "final") -> Iterator[Any]:
        """The answers of this run's model, by the job's `infer`, one by one.

        Args:
            inputs: what `infer` understands: `unisono predict` gives it the words of its command line.
            which: as in `model`.

        Raises:
            UsageError: the job has no `infer`, there are no such parameters, or `infer` says so of an input.
            JobError: `infer` failed; the input is named.
        """
        infer = self.job.infer
        if infer is None:
            raise UsageError("a job answers inputs by its infer(model, input); this job has none. Give it infer=.")
        framework, model = self._restored(which)
        for given in inputs:
            try:
                with framework.adapter.answering(model):  # and not while the caller has the answer
                    answer = infer(model, given)
            except UnisonoError:
                raise
            except Exception as error:
                raise JobError(
                    f"{type(error).__name__} in job.infer, input {given!r}: {error}", user_traceback(error)
                ) from error
            yield answer

    def resize(self, workers: int) -> int:
        """Ask the running run for another number of workers; 0 pauses it. Returns at once.

        Args:
            workers: how many, from 0 to the non-empty microbatches of a batch.

        Raises:
            UsageError: the run is not running, or cannot have so many.
        """
        return control.resize(self.directory, workers)

    def stop(self) -> None:
        """Ask the run to end after the step at hand; a checkpoint is written. Returns at once.

        Raises:
            UsageError: the run is not running.
        """
        control.stop(self.directory)

    def wait(self, timeout_seconds: float | None = None) -> Run:
        """Until the run has ended.

        Args:
            timeout_seconds: how long at most; None = as long as it takes.

        Raises:
            JobError: the run failed (in this process).
        """
        if timeout_seconds:  # 0 only looks
            timeout_seconds = bounds.seconds("timeout_seconds", timeout_seconds)
        if self.thread is not None:
            self.thread.join(timeout_seconds)
            if self.errors:
                raise self.errors[0]
        elif self.status == "running":
            with suppress(ProcessLookupError):
                pidfd = os.pidfd_open(self.manifest["process"])
                try:
                    if self.status == "running":  # still: the number is this process's
                        readable(pidfd, timeout_seconds)
                finally:
                    os.close(pidfd)
        return self
