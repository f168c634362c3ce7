"""metrics.jsonl: a line of JSON for each record."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unisono.errors import UsageError
from unisono.observe.appended import Appended
from unisono.values.untrusted import Malformed, check, lines, parsed

METRICS = "metrics.jsonl"

RETRY_SECONDS = 0.2
"""Between tries of a disk that has not taken what was written."""

MOST_WAITING = 100_000
"""Records that wait for the disk; the oldest are lost then."""

PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO}
"""What may be over when the run is not: a disk that is full, a table that is."""


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
        folder: gives where the file lies now.
        message: says what a person should know.
        takes_over: whether the host is lost that has kept it. A process there that only hangs holds its lock still, and
            may write to the file later on: so this is a copy of it in its place.

    Raises:
        UsageError: another process is writing it, or nobody may.
    """

    def __init__(self, folder: Callable[[], Path], message: Callable[[str], None], takes_over: bool = False) -> None:
        self._folder, self._message = folder, message
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._file = Appended(folder, METRICS, message)
        self._lock = (_replaced if takes_over else locked)(folder() / METRICS)
        self._is_troubled = False
        self._tried = time.monotonic()

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Go on from an earlier run: drop the records that are not wanted, and a torn last line."""
        try:
            path = self._folder() / METRICS
            found = list(lines(path))
            records = [_record(line) if line.endswith(b"\n") else None for line in found]
            are_wanted = [record is not None and wanted(record) for record in records]
            first = (*are_wanted, False).index(False)
            os.truncate(path, sum(map(len, found[:first])))  # what stays is not written again: is there room?
        except (OSError, Malformed) as error:
            self._message(f"{METRICS} could not be read: {error}; training goes on")
            return
        self._waiting.extend(itertools.compress(found[first:], are_wanted[first:]))
        self.flush()

    def write(self, record: dict[str, Any]) -> None:
        """Append a record: whoever reads the file sees it at once."""
        self._waiting.append(json.dumps(plain(record), allow_nan=False).encode() + b"\n")
        if not self._is_troubled or time.monotonic() - self._tried > RETRY_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        self._tried = time.monotonic()
        self._is_troubled = not self._file.write(b"".join(self._waiting))
        if not self._is_troubled:
            self._waiting.clear()

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        self._file.close()
        if self._waiting:
            self._message(f"{METRICS}: {len(self._waiting)} records are lost")
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def locked(path: Path) -> int | None:
    """An open file that holds the lock of a run folder, or None where the disk has no room for one.

    Args:
        path: the folder's metrics.jsonl, which is made where it is missing.

    Raises:
        UsageError: another process holds it, or nobody may write there.
    """
    try:
        lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in PASSING:
            return None
        raise UsageError(
            f"the out folder must be writable; received {path.parent}: {error}. Name another with --out."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise UsageError(
            f"a run folder has one run at a time; {path.parent} is being written by another process. Stop it "
            "first, or name another folder."
        ) from error
    except OSError:
        pass  # a file system without locks
    return lock


def _replaced(path: Path) -> int | None:
    """Put a copy of a file in its place, and lock that; see `locked`."""
    aside = path.with_name(path.name + ".tmp")
    try:
        shutil.copyfile(path, aside)
        lock = locked(aside)
        aside.replace(path)
    except OSError as error:
        raise UsageError(f"records are written to a file; {path} cannot be written anew: {error}.") from error
    return lock


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
