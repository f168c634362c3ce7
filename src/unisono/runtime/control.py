"""The control socket in the run folder: other processes ask a run to resize or to stop.

One line of JSON each way. The folder may lie deeper than a socket's address can say, so both ends go by way of the
open folder.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from unisono.errors import UsageError

SOCKET = "control.sock"
_MOST_BYTES = 4096


class ControlSocket:
    """The run's end.

    Args:
        folder: the run folder.
        answer: request → answer; raises UsageError for a request that breaks a rule.
    """

    def __init__(self, folder: Path, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._path = folder / SOCKET
        self._answer = answer
        self._asking: dict[socket.socket, bytes] = {}
        self._selector = selectors.EpollSelector()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self._path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            with _address(folder) as address:
                self.socket.bind(address)
        finally:
            os.umask(mask)
        self.socket.listen()
        self._selector.register(self.socket, selectors.EVENT_READ)

    def fileno(self) -> int:
        """The file that can be read when there is something to serve."""
        return self._selector.fileno()

    def serve(self) -> None:
        """Hear who asks, however slowly, and answer who has asked."""
        for key, _ in self._selector.select(0):
            if key.data is None:
                self._accept()
            else:
                self._hear(key.data)

    def _accept(self) -> None:
        with suppress(OSError):
            end, _ = self.socket.accept()
            end.setblocking(False)
            self._asking[end] = b""
            self._selector.register(end, selectors.EVENT_READ, end)

    def _hear(self, end: socket.socket) -> None:
        """Take what has come from one who asks; a line is the whole of it."""
        with suppress(OSError):
            more = end.recv(_MOST_BYTES)
            self._asking[end] += more
            line = self._asking[end]
            if more and b"\n" not in line and len(line) < _MOST_BYTES:
                return
            end.sendall(json.dumps(self._reply(line)).encode() + b"\n")
        self._let_go(end)

    def _let_go(self, end: socket.socket) -> None:
        del self._asking[end]
        self._selector.unregister(end)
        end.close()

    def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise UsageError("a request is a JSON object")
            return self._answer(request)
        except (ValueError, UsageError) as error:
            return {"error": str(error)}

    def close(self) -> None:
        """Take the socket out of the folder."""
        for end in list(self._asking):
            self._let_go(end)
        self._selector.close()
        self.socket.close()
        self._path.unlink(missing_ok=True)


class _address:
    """A short address of the socket in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> str:
        self._file = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._file}/{SOCKET}"

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def request(folder: Path, **fields: Any) -> dict[str, Any]:
    """Ask a run for something and return its answer, however long it takes: the kernel tells when the run has ended.

    Args:
        folder: the run folder.
        fields: the request.

    Raises:
        UsageError: nobody answers, or the run refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            with _address(folder) as address:
                end.connect(address)
            end.sendall(json.dumps(fields).encode() + b"\n")
            answer = json.loads(end.makefile("rb").readline())
    except (OSError, ValueError) as error:
        raise UsageError(f"only a running run can be asked; {folder} does not answer ({error}).") from error
    if "error" in answer:
        raise UsageError(str(answer["error"]))
    return dict(answer)
