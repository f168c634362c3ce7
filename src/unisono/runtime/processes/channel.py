"""Messages and open files between two processes of Unisono's, over a socket pair."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from unisono.runtime.processes.lifeline import die_with_parent

_HEAD = struct.Struct("=q?q")
"""Bytes of an object, whether they are in a file that comes with it, and how many files of the sender's do."""

MOST_BYTES = 1 << 15
"""Of an object that is sent itself: it is in the channel as a whole or not at all, even if reader or sender is stopped.
A larger one is in a file of memory."""

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


def joined() -> Channel:
    """This process's end of the channel with which `started` has started it; from now on it ends with its parent."""
    file, parent = map(int, sys.argv[1:3])
    die_with_parent(parent)
    return Channel(socket.socket(fileno=file))


def _beyond_the_printed(file: int) -> int:
    """Where the job has closed its output, a file that is received gets that number: nobody is to print into it."""
    if file > 2:
        return file
    moved = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(file)
    return moved


class NoRoom(OSError):
    """Open files could not be taken over: this process has as many as it may."""


class Channel:
    """One end; objects are pickled (between Unisono's own processes only)."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def send(self, value: Any, files: Sequence[int] = ()) -> None:
        """Send an object, and open files with it; this waits for nobody."""
        payload = value if isinstance(value, bytes) else pickle.dumps(value)
        if len(payload) <= MOST_BYTES:
            socket.send_fds(self.socket, [_HEAD.pack(len(payload), False, len(files)), payload], list(files))
            return
        with os.fdopen(os.memfd_create("unisono-message", os.MFD_CLOEXEC), "wb") as file:
            file.write(payload)
            file.flush()
            head = _HEAD.pack(len(payload), True, len(files))
            socket.send_fds(self.socket, [head], [file.fileno(), *files])

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
        head += self._exactly(_HEAD.size - len(head))
        size, is_in_file, count = _HEAD.unpack(head)
        payload = b"" if is_in_file else self._exactly(size)
        if len(files) < is_in_file + count:
            for file in files:
                os.close(file)
            raise NoRoom(errno.EMFILE, os.strerror(errno.EMFILE))
        if is_in_file:
            with os.fdopen(files.pop(0), "rb") as large:
                large.seek(0)
                payload = large.read()
        return pickle.loads(payload), [_beyond_the_printed(file) for file in files]

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            if not (more := self.socket.recv(size - len(data))):
                raise EOFError
            data += more
        return bytes(data)

    def close(self) -> None:
        """Close this end."""
        self.socket.close()
