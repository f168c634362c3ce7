"""Messages and open files between two processes of Unisono's, over a socket pair."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

_HEAD = struct.Struct("=qq")

CLOSED = (errno.EBADF, errno.ENOTSOCK)
"""Errors that say that somebody in this process has closed a file that was not his."""


def started(module: str, *files: int, **options: Any) -> tuple[subprocess.Popen[bytes], Channel]:
    """Start a process that runs a module, with its end of a new channel and this process's number as arguments.

    Args:
        module: its name; its `main` takes both, and the files.
        files: more open files that it has, under the same numbers.
        options: more for `subprocess.Popen`.
    """
    mine, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid()), *map(str, files)],
            pass_fds=[theirs.fileno(), *files], stdin=subprocess.DEVNULL, **options,
        )  # fmt: skip
    return process, Channel(mine)


class NoRoom(OSError):
    """Open files could not be taken over: this process has as many as it may."""


class Channel:
    """One end; objects are pickled (between Unisono's own processes only)."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def send(self, value: Any, files: Sequence[int] = ()) -> None:
        """Send an object, and open files with it."""
        payload = value if isinstance(value, bytes) else pickle.dumps(value)
        head = _HEAD.pack(len(payload), len(files))
        socket.send_fds(self.socket, [head], list(files))
        self.socket.sendall(payload)

    def answer(self, function: Callable[[], Any], described: Callable[[BaseException], Any]) -> bool:
        """Send what a function returns, or, where it fails or what it returns cannot travel, a description of that.

        Returns:
            Whether it did not fail.

        Raises:
            OSError: the channel is closed.
        """
        sound = True
        try:
            payload = pickle.dumps(function())
        except (Exception, SystemExit) as error:  # the job's code may ask to leave
            payload, sound = pickle.dumps(described(error)), False
        self.send(payload)
        return sound

    def receive(self) -> tuple[Any, list[int]]:
        """The next object and its files.

        Raises:
            EOFError: the other end is gone.
            NoRoom: this process may not open the files that came with it.
        """
        head, files, _, _ = socket.recv_fds(self.socket, _HEAD.size, 16)
        while len(head) < _HEAD.size:
            head += self._some(_HEAD.size - len(head))
        size, count = _HEAD.unpack(head)
        payload = bytearray()
        while len(payload) < size:
            payload += self._some(min(size - len(payload), 1 << 24))
        if len(files) < count:
            for file in files:
                os.close(file)
            raise NoRoom(errno.EMFILE, os.strerror(errno.EMFILE))
        return pickle.loads(payload), list(files)

    def _some(self, size: int) -> bytes:
        data = self.socket.recv(size)
        if not data:
            raise EOFError
        return data

    def close(self) -> None:
        """Close this end."""
        self.socket.close()
