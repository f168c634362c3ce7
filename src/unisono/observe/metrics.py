"""metrics.jsonl and TensorBoard events: one record, two files, the same names."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unisono.errors import UsageError
from unisono.observe.appending import append
from unisono.observe.events import EventFile

FLUSH_SECONDS = 0.2
EVENT_SECONDS = 0.05


class MetricsFile:
    """Appends records as lines of JSON; whoever holds it holds the run folder.

    A disk that does not take them is reported once; what it did not take is tried again with each record.

    Args:
        path: the file.
        message: says what a person should know.

    Raises:
        UsageError: another process is writing it.
    """

    def __init__(self, path: Path, message: Callable[[str], None]) -> None:
        self._path, self._message = path, message
        self._waiting: list[str] = []
        self._troubled = False
        self._file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise UsageError(
                f"a run folder has one run at a time; {path.parent} is being written by another process. Stop it "
                "first, or name another folder."
            ) from error
        except OSError:
            pass  # a file system without locks
        self._flushed = time.monotonic()

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Go on from an earlier run: drop the records that are not wanted, and a torn last line."""
        self._file.seek(0)
        lines = self._file.read().decode(errors="replace").splitlines()
        self._waiting = [line for line in lines if _is_wanted(line, wanted)]
        self._file.truncate(0)
        self.flush()

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; it is on disk within 0.2 s of the next one."""
        self._waiting.append(json.dumps(record))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()
            self._flushed = time.monotonic()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        data = "".join(line + "\n" for line in self._waiting).encode()
        try:
            append(self._file, data)
            self._waiting = []
            self._troubled = False
        except OSError as error:
            if not self._troubled:
                self._message(f"{self._path} could not be written: {error}; training goes on")
            self._troubled = True

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        self._file.close()


def _is_wanted(line: str, wanted: Callable[[dict[str, Any]], bool]) -> bool:
    try:
        return wanted(json.loads(line))
    except ValueError:
        return False


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records; a torn last line is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


class TensorBoard:
    """Writes each record as one event with a scalar per number.

    A disk that does not take an event is reported once, and the event is left out: `metrics.jsonl` has it too.

    Args:
        folder: where the event file goes.
        message: says what a person should know.
    """

    def __init__(self, folder: Path, message: Callable[[str], None]) -> None:
        self._message = message
        self._troubled = False
        self._file: EventFile | None = None
        self._left_out: dict[str, Any] | None = None
        self._written = 0.0
        with self._reported():
            self._file = EventFile(folder)

    def restart(self, step: int) -> None:
        """Tell TensorBoard to forget what earlier files say of later steps."""
        if self._file is not None:
            with self._reported():
                self._file.restart(step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Write a record's numbers; lists become name/0, name/1 …

        Of steps that come faster than 20 a second some are left out (TensorBoard draws 1,000 points at most, and
        `metrics.jsonl` has them all), never the last one and never an evaluation.
        """
        if "loss" in record and time.monotonic() - self._written < EVENT_SECONDS:
            self._left_out = record
            return
        self._event(record)
        if "loss" in record:
            self._left_out, self._written = None, time.monotonic()

    def _event(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            with self._reported():
                self._file.scalars(record["step"], _scalars(record))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._troubled:
                self._message(f"TensorBoard's events could not be written: {error}; training goes on")
            self._troubled = True

    def close(self) -> None:
        """Write what is left."""
        if self._left_out is not None:
            self._event(self._left_out)
        if self._file is not None:
            self._file.close()


def _scalars(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if name == "step":
            continue
        if isinstance(value, int | float):
            yield name, float(value)
        elif isinstance(value, list):
            yield from ((f"{name}/{i}", float(v)) for i, v in enumerate(value) if isinstance(v, int | float))
