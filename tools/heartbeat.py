"""Runs a command, passes its output through as it comes, and says from time to time that it still runs.

python tools/heartbeat.py [--every SECONDS] NAME COMMAND [ARGUMENT ...]

When no line has ended for so many seconds (15), it prints "… NAME: 40 s", the time since the command began. Signals go
on to the command and what it started; the exit status is the command's (128 + n if signal n ended it).
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Pulse:
    """When a line is due, and how it reads; all times in seconds of one clock."""

    name: str
    every: float
    began: float

    def __post_init__(self) -> None:
        self.due, self.inside_a_line = self.began + self.every, False

    def heard(self, output: bytes, now: float) -> None:
        """The command has written this."""
        if b"\n" in output:
            self.due = now + self.every
        self.inside_a_line = not output.endswith(b"\n")

    def beat(self, now: float) -> bytes:
        """The line that is due now, or nothing.

        >>> pulse = Pulse("pytest", 15, began=0)
        >>> pulse.heard(b"..F", now=14)
        >>> pulse.beat(now=14), pulse.beat(now=15).decode()
        (b'', '\\n… pytest: 15 s\\n')
        """
        if now < self.due:
            return b""
        line = "\n" * self.inside_a_line + f"… {self.name}: {now - self.began:.0f} s\n"
        self.heard(line.encode(), now)
        return line.encode()


def relay(source: int, ended: int, pulse: Pulse, write: Callable[[bytes], object]) -> None:
    """Pass on what comes from a pipe until it closes, or until the command has ended and nothing is left in it.

    Args:
        source: the pipe.
        ended: a descriptor that is readable once the command has ended: what it left behind may hold the pipe open.
        pulse: what is to be said meanwhile.
        write: takes the output.
    """
    while True:
        ready, _, _ = select.select([source, ended], [], [], max(0.0, pulse.due - time.monotonic()))
        if source in ready:
            output = os.read(source, 1 << 16)
            if not output:
                return
            write(output)
            pulse.heard(output, time.monotonic())
        elif ended in ready:
            return
        else:
            write(pulse.beat(time.monotonic()))


def forward(group: int, number: int) -> None:
    """Send a signal to a group of processes, if it is still there."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def write(output: bytes) -> None:
    """To standard output, at once."""
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def main() -> int:
    """Run the command line's command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=float, default=15)
    parser.add_argument("name")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    # In a group of its own the command gets a terminal's Ctrl-C once: from here.
    started = subprocess.Popen(
        given.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
    )
    for number in FORWARDED:
        signal.signal(number, lambda received, _: forward(started.pid, received))
    assert started.stdout is not None
    relay(started.stdout.fileno(), os.pidfd_open(started.pid), Pulse(given.name, given.every, time.monotonic()), write)
    status = started.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
