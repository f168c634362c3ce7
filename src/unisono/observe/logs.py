"""What processes print: whole lines, to a log file and above the progress line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class LineLog:
    """Cuts a stream of bytes into lines.

    Args:
        path: where the lines are kept, or None.
        prefix: put before each shown line, e.g. "[worker 1] ".
        show: called with each prefixed line.
    """

    def __init__(self, path: Path | None, prefix: str, show: Callable[[str], None]) -> None:
        self._file = path.open("ab", buffering=0) if path else None
        self._prefix = prefix
        self._show = show
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        if self._file:
            with suppress(OSError):  # a full disk costs the log, not the run
                self._file.write(line + b"\n")
        self._show(self._prefix + line.decode(errors="replace"))

    def close(self) -> None:
        """Take what is left as a line."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        if self._file:
            self._file.close()
