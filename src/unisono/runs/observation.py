"""The watcher of a run without a folder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from unisono.observe.logs import LineLog
from unisono.observe.outlet import told_of_waiting
from unisono.observe.progress import Display
from unisono.runs.interrupts import Interrupts
from unisono.runtime.preparation.outline import JobFacts
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.processes.stacks import place_of
from unisono.runtime.rules.shutdown import Shutdown
from unisono.runtime.state.host_state import HostState
from unisono.runtime.supervisor.control_socket import ControlSocket
from unisono.values.text import printable


@dataclass
class Observation:
    """A watcher that keeps the records and shows progress; runs with a folder do more.

    Attributes:
        job: what is known of the job.
        display: where progress is shown.
        interrupted: why the run is asked to stop, if it is.
        parameters: name → array to begin with instead of the model's own, or None.
        records: what came.
    """

    job: JobFacts
    display: Display
    interrupted: Callable[[], Shutdown | None] = lambda: None
    parameters: dict[str, Any] | None = None
    records: list[dict[str, Any]] = field(default_factory=list)

    def preparing(self) -> None:
        """See `Watcher`."""

    def load_observers(self) -> None:
        """Have the job's observers now, before the run depends on this thread: a job file is read once more."""
        own = threading.get_ident()

        def tell(seconds: float) -> None:
            place = place_of(own)
            self.message(f"still reading the job's observers, {seconds:.0f} s{': ' if place else ''}{place}")

        with self.obeyed(), told_of_waiting(tell):
            _ = self.job.observers

    def described(self, described: Described) -> None:
        """See `Watcher`."""

    def restore(self, described: Described, state: HostState) -> tuple[int, bool]:
        """See `Watcher`."""
        if self.parameters is not None:
            state.restore(self.parameters, {}, 0)
            self.parameters = None
        return 0, True

    def record(self, record: dict[str, Any]) -> None:
        """See `Watcher`."""
        self.records.append(record)
        self.display.update(record)

    def copy(self, described: Described, state: HostState, rounds: int) -> bool:
        """See `Watcher`."""
        return True

    def copy_wanted(self) -> bool:
        """See `Watcher`."""
        return False

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

    def memory(self) -> dict[str, Any]:
        """See `Watcher`."""
        return {}

    def remember(self, memory: dict[str, Any]) -> None:
        """See `Watcher`."""

    def joined(self, host: int, described: Described, state: HostState, rounds: int) -> None:
        """See `Watcher`."""

    def control(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> ControlSocket | None:
        """See `Watcher`."""
        return None
