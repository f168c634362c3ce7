"""What processes print: kept as it comes, and shown by line."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

MOST_BYTES = 1 << 16
"""A line that is longer is shown in pieces."""

BAR_SECONDS = 10.0
"""So often a line is shown that draws over itself (a progress bar)."""


@dataclass
class LineLog:
    """Cuts a stream of bytes into lines, at a cost that grows with its length alone.

    Args:
        keep: takes all bytes, for a file; None = none does.
        prefix: put before each shown line, e.g. "[worker 1] ".
        show: called with the prefixed lines that came together, joined.
        ended: called when the stream has ended.
    """

    keep: Callable[[bytes], None] | None
    prefix: str
    show: Callable[[str], None]
    ended: Callable[[], None] = lambda: None
    rest: bytearray = field(default_factory=bytearray)
    shown: float = field(default_factory=lambda: time.monotonic())

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.keep:
            self.keep(data)
        *ended, rest = data.split(b"\n")
        lines = []
        for piece in ended:
            lines += self._pieces(piece)
            lines.append(bytes(self.rest))
            self.rest.clear()
        lines += self._pieces(rest)
        if b"\r" in rest and time.monotonic() - self.shown > BAR_SECONDS:
            lines.append(bytes(self.rest))
        self._lines(lines)

    def take_aside(self, data: bytes) -> None:
        """Take bytes for the file alone; they are shown where there is none."""
        (self.keep or self.feed)(data)

    def _pieces(self, data: bytes) -> list[bytes]:
        """Add to the line that is not ended yet; returns what it is too long to hold."""
        self.rest += data
        pieces = []
        while len(self.rest) > MOST_BYTES:
            end = MOST_BYTES
            while end > MOST_BYTES - 4 and self.rest[end] & 0xC0 == 0x80:  # not within a letter
                end -= 1
            pieces.append(bytes(self.rest[:end]))
            del self.rest[:end]
        return pieces

    def _lines(self, lines: list[bytes]) -> None:
        if lines:
            self.shown = time.monotonic()
            self.show("\n".join(self.prefix + _seen(line).decode(errors="replace") for line in lines))

    def close(self) -> None:
        """Take what is left as a line."""
        if self.rest:
            if self.keep:
                self.keep(b"\n")
            self._lines([bytes(self.rest)])
            self.rest.clear()
        self.ended()


def _seen(line: bytes) -> bytes:
    r"""What a terminal shows of a line in the end: a carriage return begins it anew.

    >>> _seen(b"10 %\r20 %\r"), _seen(b"plain")
    (b'20 %', b'plain')
    """
    return line.rstrip(b"\r").rpartition(b"\r")[2]
