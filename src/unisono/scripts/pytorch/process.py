"""A worker of a script as a process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct

from unisono.runtime.processes.channel import Channel
from unisono.runtime.processes.lifeline import status_of

_SEND_SECONDS = 10
"""For a message to one that takes none."""


class Process:
    """A worker, a child of this process.

    Args:
        number, pidfd: it.
        channel: the way to it.
    """

    def __init__(self, number: int, pidfd: int, channel: Channel) -> None:
        self.number, self.pidfd, self.channel = number, pidfd, channel
        channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0))

    def send(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def end(self) -> int:
        """End it, if it has not; returns its exit code (−n: killed by signal n)."""
        self.channel.close()
        self.send(signal.SIGKILL)
        status = status_of(self.pidfd)
        os.close(self.pidfd)
        return status

    def forget(self) -> None:
        """This process is a fork, and it is another one's child."""
        self.channel.close()
        os.close(self.pidfd)
