"""The watchers of runs without a folder, and of those with one as far as they are alike on all hosts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from unisono.checkpoint.keeper import Keeper
from unisono.checkpoint.store import Checkpoint
from unisono.observe.logs import LineLog
from unisono.observe.outlet import Outlet, told_of_waiting
from unisono.observe.progress import Display
from unisono.observe.run_folder import RunFolder
from unisono.runs.interrupts import Interrupts
from unisono.runtime.preparation.outline import JobFacts
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.processes.stacks import place_of
from unisono.runtime.rules.shutdown import Shutdown
from unisono.runtime.state.host_state import HostState
from unisono.runtime.supervisor.control_socket import NO_SOCKET, ControlSocket
from unisono.runtime.supervisor.watcher import Watcher
from unisono.values.text import printable


@dataclass
class Observation(Watcher):
    """A watcher that keeps the records and shows progress; runs with a folder do more.

    Attributes:
        job: what is known of the job.
        display: where progress is shown.
        interrupted: why the run is asked to stop, if it is.
        resumed: the checkpoint to begin with instead of the model's own values, or None.
        records: what came.
    """

    job: JobFacts
    display: Display
    interrupted: Callable[[], Shutdown | None] = lambda: None
    resumed: Checkpoint | None = None
    records: list[dict[str, Any]] = field(default_factory=list)

    def restore(self, described: Described, state: HostState) -> tuple[int, bool]:
        """See `Watcher`."""
        if self.resumed is None:
            return 0, True
        standing = self.resumed.standing
        state.restore(self.resumed.parameters.arrays, self.resumed.optimizer.arrays, standing.step)
        self.resumed.forget()
        return described.program.first_round(standing.step, standing.evaluated), True

    def record(self, record: dict[str, Any]) -> None:
        """See `Watcher`."""
        self.records.append(record)
        self.display.update(record)

    def log(self, name: str) -> LineLog:
        """See `Watcher`."""
        return LineLog(None, "" if name == "host" else f"[{name}] ", self.display.message)

    def message(self, text: str) -> None:
        """See `Watcher`: it may hold text from files and other hosts."""
        self.display.message(printable(text))

    def obeyed(self) -> AbstractContextManager[None]:
        """See `Watcher`."""
        return self.interrupted.obeyed() if isinstance(self.interrupted, Interrupts) else nullcontext()

    def workers(self, alive: int, hosts: int) -> None:
        """See `Watcher`."""
        self.display.workers(alive, hosts)


@dataclass(kw_only=True)
class FolderObservation(Observation):
    """The watcher of a run with a folder, the run's or a host's own.

    Attributes:
        folder: it.
        keeper: the run's checkpoints, or decides as another host's does.
        host: put before processes' names where there are several hosts ("node0 "), or nothing.
    """

    folder: RunFolder
    keeper: Keeper
    host: str = ""

    def _hold(self, outlet: type[Outlet], name: str) -> None:
        """Have the folder written by an outlet of this name."""
        self._files = outlet(name, self.message)
        self.folder.hold(self._files, self.message)

    def preparing(self) -> None:
        """Have the job's observers now, before the run depends on this thread: a job file is read once more."""
        own = threading.get_ident()

        def tell(seconds: float) -> None:
            place = place_of(own)
            self.message(f"still reading the job's observers, {seconds:.0f} s{': ' if place else ''}{place}")

        with self.obeyed(), told_of_waiting(tell):
            _ = self.job.observers

    def memory(self) -> dict[str, Any]:
        """See `Watcher`."""
        return self.keeper.memory()

    def remember(self, memory: dict[str, Any]) -> None:
        """See `Watcher`."""
        self.keeper.remember(memory)

    def log(self, name: str) -> LineLog:
        """See `Watcher`."""
        prefix = "" if name == "host" else f"[{self.host}{name}] "
        return self.folder.log(name, prefix, self.display.message)

    def control(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> ControlSocket | None:
        """See `Watcher`: a host's workers are its own."""
        try:
            return ControlSocket(lambda: self.folder.path, answer, self._files.put, self.message)
        except OSError as error:
            self.message(NO_SOCKET.format(error))
            return None
