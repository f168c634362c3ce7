"""metrics.jsonl: a line of JSON for each record."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from unisono.errors import UsageError

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
        lines = self._file.read().decode(errors="replace").splitlines()
        self._waiting = [line for line in lines if _is_wanted(line, wanted)]
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
    try:
        return wanted(json.loads(line))
    except ValueError:
        return False


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records, null as NaN; a torn last line is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append({name: math.nan if value is None else value for name, value in json.loads(line).items()})
        except ValueError:
            break
    return records
