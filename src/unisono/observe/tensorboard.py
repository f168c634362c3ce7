"""TensorBoard's view of a run: each record's numbers as scalars, written by tensorboardX."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unisono.observe.appended import Appended

EVENT_SECONDS = 0.05


@contextmanager
def _unseen(package: str) -> Iterator[None]:
    """What is imported in this block does not find a package that is not loaded yet."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


class TensorBoard:
    """Writes each record as one event with a scalar per number. Where tensorboardX is not installed it says so, and
    writes nothing: `metrics.jsonl` has everything. Its own writer is not used: that has a thread which ends with the
    first full disk.

    Args:
        folder: gives where the event file goes.
        message: says what a person should know.
    """

    def __init__(self, folder: Callable[[], Path], message: Callable[[str], None]) -> None:
        self._left_out: dict[str, Any] | None = None
        self._written = 0.0
        self._file: Appended | None = None
        try:
            with _unseen("torch"):  # tensorboardX loads it if it finds it, for seconds, and never uses it here
                from tensorboardX.proto import event_pb2, summary_pb2
                from tensorboardX.record_writer import masked_crc32c
        except ImportError as error:
            message(f"no events for TensorBoard: {error}; pip install tensorboardX brings them. metrics.jsonl has all")
            return
        self._events, self._summaries, self._checksum = event_pb2, summary_pb2, masked_crc32c
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._file = Appended(folder, name, message)
        self._head = self._framed(self._events.Event(wall_time=time.time(), file_version="brain.Event:2"))

    def restart(self, step: int) -> None:
        """Tell TensorBoard to forget what earlier files say of later steps."""
        if self._file is None:
            return
        log = self._events.SessionLog
        self._add(step + 1, session_log=log(status=log.START))

    def write(self, record: dict[str, Any]) -> None:
        """Write a record's numbers; lists become name/0, name/1 …

        Of steps that come faster than 20 a second some are left out (TensorBoard draws 1,000 points at most, and
        `metrics.jsonl` has them all), never the last one and never an evaluation.
        """
        if self._file is None:
            return
        if "loss" in record and time.monotonic() - self._written < EVENT_SECONDS:
            self._left_out = record
            return
        self._event(record)
        if "loss" in record:
            self._left_out, self._written = None, time.monotonic()

    def _event(self, record: dict[str, Any]) -> None:
        messages = self._summaries.Summary
        values = [messages.Value(tag=name, simple_value=value) for name, value in _scalars(record)]
        self._add(record["step"], summary=messages(value=values))

    def _add(self, step: int, **content: Any) -> None:
        event = self._events.Event(step=step, wall_time=time.time(), **content)
        if self._file is not None and self._file.write(self._head + self._framed(event)):
            self._head = b""

    def _framed(self, event: Any) -> bytes:
        """As TFRecord has it: length and checksum, data and checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        return b"".join((length, self._sum(length), data, self._sum(data)))

    def _sum(self, data: bytes) -> bytes:
        return struct.pack("<I", self._checksum(data))

    def close(self) -> None:
        """Write what is left."""
        if self._file is None:
            return
        if self._left_out is not None:
            self._event(self._left_out)
        self._file.close()


def _scalars(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if name == "step":
            continue
        if isinstance(value, int | float):
            yield name, float(value)
        elif isinstance(value, list):
            yield from ((f"{name}/{i}", float(v)) for i, v in enumerate(value) if isinstance(v, int | float))
