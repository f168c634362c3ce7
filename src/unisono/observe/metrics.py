"""metrics.jsonl: a line of JSON for each record."""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from unisono.errors import UsageError
from unisono.untrusted import Malformed, check, lines, parsed

RETRY_SECONDS = 0.2
"""Between tries of a disk that has not taken what was written."""


def plain(value: Any) -> Any:
    """A value as JSON knows it: numbers that are not finite are null.

    >>> plain({"loss": math.nan, "times": [1.0, math.inf]})
    {'loss': None, 'times': [1.0, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


class MetricsFile:
    """Appends records as lines of JSON; whoever holds it holds the run folder.

    A disk that does not take them is reported once; what it did not take is tried again with later records.

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
        self._tried = time.monotonic()

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Go on from an earlier run: drop the records that are not wanted, and a torn last line."""
        self._file.seek(0)
        found = self._file.read().decode(errors="replace").splitlines()
        self._waiting = [line for line in found if _is_wanted(line, wanted)]
        self._file.truncate(0)
        self.flush()

    def write(self, record: dict[str, Any]) -> None:
        """Append a record: whoever reads the file sees it at once."""
        self._waiting.append(json.dumps(plain(record), allow_nan=False))
        if not self._troubled or time.monotonic() - self._tried > RETRY_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        self._tried = time.monotonic()
        data = "".join(line + "\n" for line in self._waiting).encode()
        size = os.fstat(self._file.fileno()).st_size
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
            self._waiting = []
            self._troubled = False
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), size)  # no torn line stays before what is written later
            if not self._troubled:
                self._message(f"{self._path} could not be written: {error}; training goes on")
            self._troubled = True

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        self._file.close()


def _is_wanted(line: str, wanted: Callable[[dict[str, Any]], bool]) -> bool:
    record = _record(line)
    return record is not None and wanted(record)


def _record(line: bytes | str) -> dict[str, Any] | None:
    """The record that a line holds, null as NaN; None where it holds none."""
    try:
        values = check(parsed(line), {"step": int})
    except Malformed:
        return None
    return {name: math.nan if value is None else value for name, value in values.items()}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records; what is none (a torn last line, damage) is left out.

    Raises:
        UsageError: there is something else than a file, or it cannot be read.
    """
    if not os.path.lexists(path):
        return []
    try:
        found = map(_record, lines(path))
        return [record for record in found if record is not None]
    except Malformed as error:
        raise UsageError(f"a run's records are lines of a file; {error}. Move it away, and see run.json.") from error


def look_over(path: Path, earlier: bool, message: Callable[[str], None]) -> None:
    """Before a run writes its records: no run needs earlier ones to go on, but it says what it lacks of them.

    Args:
        path: the file; something else that has its name is moved to one side.
        earlier: whether there should be records.
        message: says what a person should know.

    Raises:
        UsageError: what is there can be neither written nor moved.
    """
    if os.path.lexists(path) and not path.is_file():
        numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
        aside = next(each for each in numbered if not os.path.lexists(each))
        try:
            path.rename(aside)
        except OSError as error:
            raise UsageError(f"records are written to a file; {path} is none, and cannot be moved: {error}.") from error
        message(f"{path} is no file, and is called {aside.name} now; training goes on without earlier records")
    elif earlier:
        lack = _lack(path)
        if lack:
            message(f"{lack}; training goes on without these records")


def _lack(path: Path) -> str:
    """What is wrong with earlier records; a torn last line is not."""
    try:
        lost = sum(line.endswith(b"\n") and _record(line) is None for line in lines(path))
    except Malformed as error:
        return str(error)
    return f"{path}: {lost} lines hold no record" if lost else ""
