"""Who watches a run and keeps its folder: records, checkpoints, what is told of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unisono.checkpoint.store import Standing
from unisono.errors import UsageError
from unisono.errors.traces import user_traceback
from unisono.machine.devices import accelerators
from unisono.machine.gpu_checks import VISIBLE, crowded, unused
from unisono.machine.gpu_shares import shared
from unisono.machine.gpus import processes
from unisono.memory.heap import trim
from unisono.observe.metrics import MetricsFile, look_over, read_metrics
from unisono.observe.outlet import PATIENCE_SECONDS, Inline, Outlet
from unisono.observe.run_folder import SOCKET
from unisono.observe.tensorboard import TensorBoard
from unisono.observe.timeline import Timeline
from unisono.runs.observation import FolderObservation
from unisono.runs.resuming import is_before, place_of, resumed_as, standing_after
from unisono.runtime.preparation.code_files import CodeFile
from unisono.runtime.preparation.digest import job_digest
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.processes.leftovers import remove_unfinished
from unisono.runtime.rules.request import Request
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.model_state import ModelState
from unisono.settings import AUTO, Settings


@dataclass(kw_only=True)
class Recorder(FolderObservation):
    """The watcher of a run with a folder.

    Attributes:
        settings: the run's settings.
        request: what was asked of the host.
        code: see `Execution`.
        started: when the run began, on the monotonic clock: before its job was made.
        takes_over: whether another host has kept the folder, which is lost.
        earlier: what run.json said before.
        has_begun: whether a step has been recorded since.
        had_finished: whether the earlier run had finished, and nothing is left to do.
    """

    settings: Settings
    request: Request
    code: Mapping[str, CodeFile]
    started: float = field(default_factory=time.monotonic)
    takes_over: bool = False

    def __post_init__(self) -> None:
        self.skipped, self.earlier, self.has_begun, self.had_finished = 0, self.folder.fields, False, False
        look_over(self.folder.metrics, self.resumed is not None, self.message)
        self._outlet: type[Outlet] = Inline if self.settings.debug else Outlet
        self._observers: list[tuple[Outlet, Callable[[dict[str, Any]], None]]] | None = None
        self._metrics = MetricsFile(self.folder.claim, self.message, self.takes_over)
        self._hold(self._outlet, "the run folder")
        self._tensorboard = TensorBoard(self.folder.claim, self.message)
        self._timeline: Timeline | None = None

    def described(self, described: Described) -> None:
        """Say who will work, keep what identifies the job, compare it with the checkpoint's."""
        shape, batches = described.layout.shape, described.program.batches
        uneven = "at most " if batches.batch_size % batches.microbatch_size else ""
        self.message(
            f"a batch of {batches.batch_size} samples is {batches.microbatches} microbatches of {uneven}"
            f"{batches.microbatch_size}: part of the result"
        )
        if shape.slots < self.request.workers and not self.settings.debug:
            self.message(
                f"{self.request.workers} workers are too many: a batch has {shape.most} non-empty microbatches, and "
                f"the layout is {self.request.layout}. Going on with {shape.slots}; more microbatches let more of them "
                "work (another result: choose once)."
            )
        if self.settings.device == AUTO and (text := unused(accelerators(), os.environ.get(VISIBLE))):
            self.message(text)
        if text := shared(shape.slots, self.request.gpus):
            self.message(text)
        if self.request.gpus and (text := crowded(processes(), self.request.gpus)):
            self.message(text)
        self.keeper.about = digest, fingerprint = self._about(described)
        self.folder.update(
            world={"workers": shape.slots, "stages": shape.stages, "steps": described.program.steps},
            fingerprint=fingerprint,
            digest=digest,
        )
        if self.resumed is not None:
            entry = resumed_as(self.resumed, self.job, digest, fingerprint, self.settings.allow_change, self.message)
            entry["workers"] = self.request.workers
            self.folder.update(resumed=[*(self.folder.fields.get("resumed") or []), entry])
        self.display.start(described.program.steps, self.job.epochs, shape.slots)

    def _about(self, described: Described) -> tuple[dict[str, Any], dict[str, str]]:
        """The job's digest and the numerics' fingerprint."""
        described = replace(described, code={**self.code, **described.code})
        fingerprint = {**described.layout.description.fingerprint, "threads": str(self.request.threads)}
        return job_digest(self.job, described), fingerprint

    def restore(self, described: Described, state: HostState) -> tuple[int, bool]:
        """Put the checkpoint's values in place."""
        self.keeper.before = self.settle
        standing = self.resumed.standing if self.resumed else Standing(0, False, 1)
        if standing.step > described.program.steps:
            raise UsageError(
                f"a resumed run may be made longer or shorter, but not shorter than it is; it has done {standing.step} "
                f"steps, and the job asks for {described.program.steps}."
            )
        first, _ = super().restore(described, state)
        self.keeper.prepare(state.saved(standing.step), state.optimizer(standing.step))
        if self.resumed is None:
            self._begin_timeline(described)
            return first, True
        trim()
        for name, values in (("losses", standing.losses), ("watched", standing.watched)):
            state.segment[name][: len(values)] = values[: len(state.segment[name])]
        self.keeper.begin(standing)
        self.keeper.newest = standing.step
        is_left = first < described.program.rounds and not self.keeper.exhausted
        self._say_what_is_left(standing.step, described.program.steps, is_left)
        if not self.had_finished:
            self._files.put(self._go_on, standing)
            self._begin_timeline(described)
        return first, is_left

    def _say_what_is_left(self, done: int, steps: int, is_left: bool) -> None:
        """Say what there is to do."""
        was_complete = self.earlier.get("exit") == "completed"
        if not is_left:
            self.message(f"finished: after step {done} nothing is left to do")
            self.had_finished = was_complete and self.folder.parameters.exists()
            return
        if was_complete:
            self.message(f"the run had finished after step {done}; the job asks for {steps} steps now")
        self.message(f"going on after step {done} of {steps}")

    def _begin_timeline(self, described: Described) -> None:
        """Make the timeline, if one is wanted."""
        if not self.request.timeline:
            return
        self._timeline, shape = Timeline(self.folder.claim, self.message), described.layout.shape
        for slot in range(shape.slots):
            pipe, stage = divmod(slot, shape.stages)
            self._files.put(self._timeline.name, slot, f"worker {slot} (pipe {pipe}, stage {stage})")

    def _go_on(self, standing: Standing, recent: Sequence[Mapping[str, Any]] = ()) -> None:
        """Go on with the files of an earlier run: what it did after this is done again.

        Args:
            standing: where the run stands.
            recent: the last records before that, of which some may not have been written.
        """
        self._metrics.keep(lambda record: is_before(record, standing))
        self._tensorboard.restart(standing.step)
        written = read_metrics(self.folder.metrics)
        self.skipped = sum("skipped" in record for record in written)
        there = max(map(place_of, written), default=(0, False))
        for record in recent:
            if there < place_of(record) and is_before(record, standing):
                self._keep(dict(record))

    def take_over(
        self, described: Described, state: HostState, rounds: int, recent: Iterable[Mapping[str, Any]], control: Path
    ) -> None:
        """Go on where another host, which is lost, has kept this folder.

        Args:
            described, state, rounds: where the run stands.
            recent: the last records, of which the lost host may not have written all.
            control: this host's control socket.
        """
        standing = standing_after(described, state, rounds)
        self.keeper.about = self._about(described)
        memory = self.keeper.memory()
        self.keeper.begin(standing)
        self.keeper.remember(memory)
        self.keeper.before = self.settle
        self.keeper.prepare(state.saved(standing.step), state.optimizer(standing.step))
        self._files.put(remove_unfinished, self.folder.path)
        self._files.put(self._link_control, control)
        self.has_begun = "first_step_seconds" in self.folder.fields
        self._files.put(self._go_on, standing, list(recent))

    def _link_control(self, control: Path) -> None:
        """Who asks the run by its folder asks the host that keeps it."""
        with suppress(OSError):
            (self.folder.claim() / SOCKET).symlink_to(control.absolute())

    def record(self, record: dict[str, Any]) -> None:
        """Hand a record to the files, the display and the job's observers."""
        if not self.has_begun and "loss" in record:
            self.has_begun = True
            self.folder.update(first_step_seconds=round(time.monotonic() - self.started, 3))
        self._files.put(self._draw, record.pop("events", ()))
        if not record:
            return
        self._files.put(self._keep, record)
        self.display.update(record)
        if "loss" not in record:
            self.keeper.evaluated(record)
        for outlet, observer in self._observed():
            outlet.put(observer, deepcopy(record))

    def _keep(self, record: dict[str, Any]) -> None:
        self._metrics.write(record)
        self._tensorboard.write(record)
        self._count_skipped(record)

    def _observed(self) -> list[tuple[Outlet, Callable[[dict[str, Any]], None]]]:
        """The job's observers, each behind an outlet: one that hangs or fails costs itself."""
        if self._observers is None:
            self._observers = [
                (self._outlet(f"observer {getattr(observer, '__name__', type(observer).__name__)!r}", self.message,
                              user_traceback), observer)
                for observer in self.job.observers
            ]  # fmt: skip
        return self._observers

    def _count_skipped(self, record: Mapping[str, Any]) -> None:
        """Steps whose losses have weight 0 change nothing: they are counted, and the first is said."""
        if not record.get("skipped"):
            return
        if not self.skipped:
            self.message(
                f"step {record['step']}: the losses of the whole batch have weight 0 (are all targets ignored?), so "
                "nothing was updated; run.json counts such steps (skipped_steps)"
            )
        self.skipped += 1

    def _draw(self, events: Sequence[Any]) -> None:
        """Add what each worker did in a round to the timeline."""
        if self._timeline is None:
            return
        for worker, done in enumerate(events):
            for name, microbatch, started, ended in done:
                arguments = {"microbatch": microbatch} if microbatch >= 0 else {}
                self._timeline.add(worker, name, started, ended, arguments)

    def copy(self, described: Described, state: ModelState, rounds: int) -> bool:
        """See `Watcher`."""
        self._files.put(self._metrics.flush)  # a resumed run expects the lines before its checkpoint
        standing = standing_after(described, state, rounds)
        self.keeper.copy(standing, state.saved(standing.step), state.optimizer(standing.step))
        return not self.keeper.exhausted

    def copy_wanted(self) -> bool:
        """See `Watcher`."""
        return self.keeper.due_by_clock()

    def settle(self) -> None:
        """Have what was recorded on disk, if the disk answers."""
        self._files.settle(PATIENCE_SECONDS)

    def close(self) -> None:
        """Close the files; what is still to be written or observed is not waited for long."""
        self.keeper.settle(PATIENCE_SECONDS)
        for outlet, _ in self._observers or ():
            outlet.close(PATIENCE_SECONDS)
        for file in (self._metrics, self._tensorboard, self._timeline):
            if file is not None:
                self._files.put(file.close)
        self.folder.release()
