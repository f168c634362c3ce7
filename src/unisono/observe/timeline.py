"""timeline.json: what every worker did when, as ui.perfetto.dev and chrome://tracing open it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from unisono.observe.appended import Appended

TIMELINE = "timeline.json"
FLUSH_SECONDS = 0.2
PROCESS = 1
"""Workers are shown as threads of one process, below one another."""


class Timeline:
    """Writes events as a JSON array in Chrome's trace format, one line an event.

    The format does without the closing bracket, so the file can be opened during the run and after a kill. Times are
    µs since the first event. A disk that does not take them ends the timeline, with one message; training goes on.

    Args:
        folder: gives where the file lies now; what it held is replaced.
        message: says what a person should know.
        name: its name.
    """

    def __init__(self, folder: Callable[[], Path], message: Callable[[str], None], name: str = TIMELINE) -> None:
        self._waiting: list[dict[str, Any]] = []
        self._named: set[int] = set()
        self._since: float | None = None
        self._first: int | None = None
        self._before = "[\n"
        self._file: Appended | None = Appended(folder, name, lambda text: message(f"{text}, the timeline ends"), False)
        with suppress(OSError):
            os.truncate(folder() / name, 0)

    def name(self, worker: int, text: str) -> None:
        """Give a worker's row a title.

        Args:
            worker: its number; rows are drawn in this order.
            text: the title.
        """
        if not self._named:
            self._put(worker, name="process_name", ph="M", args={"name": "unisono"})
        self._named.add(worker)
        self._put(worker, name="thread_name", ph="M", args={"name": text})
        self._put(worker, name="thread_sort_index", ph="M", args={"sort_index": worker})

    def add(self, worker: int, name: str, started: float, ended: float, arguments: Mapping[str, Any]) -> None:
        """Note what a worker did; it is written with the first event that comes 0.2 s later or after that.

        Args:
            worker: its number.
            name: what it did.
            started, ended: when: seconds on a clock that all workers share.
            arguments: what else there is to say of it.
        """
        now = time.monotonic()
        if self._since is not None and now - self._since > FLUSH_SECONDS:
            self._flush()
        self._since = now if self._since is None else self._since
        if worker not in self._named:  # it came later
            self.name(worker, f"worker {worker}")
        start, end = round(1e9 * started), round(1e9 * ended)
        self._put(worker, name=name, ph="X", ts=start, dur=(end - start) / 1e3, args=dict(arguments))

    def _put(self, worker: int, **event: Any) -> None:
        if self._file is not None:  # viewers take thread 0 for an idle processor
            self._waiting.append({**event, "pid": PROCESS, "tid": worker + 1})

    def close(self) -> None:
        """Write what is left, and the closing bracket."""
        self._flush()
        self._write("\n]\n" if self._before == ",\n" else "[\n]\n")
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        """Write what waits; the first events of all workers have come by the first time."""
        starts = [event["ts"] for event in self._waiting if "ts" in event]
        if self._first is None and starts:
            self._first = min(starts)
        lines = []
        for event in self._waiting:
            if "ts" in event:
                event["ts"] = (event["ts"] - self._first) / 1e3
            lines.append(json.dumps(event))
        if lines:
            self._write(self._before + ",\n".join(lines))
            self._before = ",\n"
        self._waiting, self._since = [], None

    def _write(self, text: str) -> None:
        if self._file is not None and not self._file.write(text.encode()):
            self._file, self._waiting = None, []
