"""metrics.jsonl and TensorBoard events: one record, two files, the same names."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventFileWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

FLUSH_SECONDS = 0.2


class MetricsFile:
    """Appends records as lines of JSON.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._flushed = time.monotonic()

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; it is on disk within 0.2 s of the next one."""
        self._file.write(json.dumps(record) + "\n")
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


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

    Args:
        folder: where the event file goes.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = EventFileWriter(str(folder))

    def write(self, record: dict[str, Any]) -> None:
        """Write a record's numbers; lists become name/0, name/1 …"""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in _scalars(record)]
        self._writer.add_event(Event(step=record["step"], wall_time=time.time(), summary=Summary(value=values)))

    def close(self) -> None:
        """Write what is left and end the writer's thread."""
        self._writer.close()


def _scalars(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if name == "step":
            continue
        if isinstance(value, int | float):
            yield name, float(value)
        elif isinstance(value, list):
            yield from ((f"{name}/{i}", float(v)) for i, v in enumerate(value) if isinstance(v, int | float))
