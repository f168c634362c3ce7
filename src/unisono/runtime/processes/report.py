"""How a child says how it has ended: one line of JSON in a pipe, among Python stacks that it was asked for.

The supervisor reads it as it comes, however long it is. A child that has ended without a whole report has died.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict

from unisono.errors.failure import Failure
from unisono.observe.appended import write_whole

_MARK = b"\0"
MOST_BYTES = 1 << 20
"""Of a report, and of stacks that are kept: more is no child's of ours."""


def tell(file: int, failure: Failure | None) -> None:
    """Say how this process ends.

    Args:
        file: the pipe.
        failure: why it could not do its work; None = it has done it.
    """
    told = {} if failure is None else asdict(failure)
    write_whole(file, b"\n" + _MARK + json.dumps(told).encode() + b"\n")


class Report:
    """The reader's end.

    Attributes:
        done: whether the child has said that it has done its work.
        failure: why it has not, if it has said that.
        stacks: the Python stacks that it was asked for.
    """

    def __init__(self) -> None:
        self.done = False
        self.failure: Failure | None = None
        self.stacks = b""
        self._rest = b""

    def read(self, file: int) -> bytes | None:
        """Take what is in the pipe, which does not block; returns what is no report, None at the pipe's end."""
        text = b""
        while True:
            try:
                data = os.read(file, 1 << 16)
            except BlockingIOError:
                return text
            if not data:
                return text or None
            text += self._taken(data)

    def _taken(self, data: bytes) -> bytes:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest if len(self._rest) <= MOST_BYTES else b""
        text = b"".join(line + b"\n" for line in lines if line and not self._is_told(line))
        self.stacks = (self.stacks + text)[-MOST_BYTES:]
        return text

    def _is_told(self, line: bytes) -> bool:
        if not line.startswith(_MARK):
            return False
        with suppress(ValueError, TypeError):  # whatever else the job writes there
            told = json.loads(line[len(_MARK) :])
            self.failure = Failure(**told) if told else None
            self.done = not told
            return True
        return False
