"""The control socket in the run folder: other processes ask a run to resize or to stop.

One line of JSON each way. The folder may lie deeper than a socket's address can say, so both ends go by way of the
open folder. The run's end never waits: it reads and writes what is ready, and lets go of who takes too long. What the
disk can hold up, making the socket and taking it away, is left to another thread.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.errors import UsageError
from unisono.observe.run_folder import SOCKET
from unisono.values.text import printable
from unisono.values.untrusted import Malformed, check, parsed

DEADLINE_SECONDS = 10.0
"""For a request to come whole, and its answer to be taken."""

MOST_ASKING = 32
"""Who ask at once; when more come, who came first goes."""

_MOST_BYTES = 4096
_LONGEST_ERROR = 2000
NO_SOCKET = "no control socket ({}): this run cannot be resized"
_DEAF_SECONDS = 1.0
"""Between tries to take a request, where this process can open no more files."""


@dataclass
class _Asking:
    """Who asks.

    Attributes:
        end: the way there.
        deadline: when it is let go of, on the monotonic clock.
        request: what has come so far.
        answer: what of the answer it has not taken yet; None before it has asked.
    """

    end: socket.socket
    deadline: float
    request: bytes = b""
    answer: bytes | None = None


class _Listener:
    """A socket in a folder, which others connect to. To make it and to close it takes as long as the disk does.

    Args:
        folder: the folder.

    Raises:
        OSError: there can be none.
    """

    def __init__(self, folder: Path) -> None:
        with ExitStack() as held:
            self.socket = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            self.socket.setblocking(False)
            os.fchmod(self.socket.fileno(), 0o600)  # its file has that mode from the first; a umask is all threads'
            self._address = held.enter_context(_address(folder))
            Path(self._address).unlink(missing_ok=True)
            self.socket.bind(self._address)
            self.socket.listen()
            self._held = held.pop_all()

    def close(self) -> None:
        """Take it out of the folder, wherever that is now."""
        with suppress(OSError):
            Path(self._address).unlink()
        self._held.close()


@dataclass
class ControlSocket:
    """The run's end.

    Args:
        folder: gives the run folder, where it lies now.
        answer: request → answer; what it raises is the answer of who has asked.
        put: has a function called that may take long; those that it is given one after another (see `Outlet`).
        message: hears why nobody can ask.
        clock: monotonic seconds.
    """

    folder: Callable[[], Path]
    answer: Callable[[dict[str, Any]], dict[str, Any]]
    put: Callable[..., None]
    message: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._asking: dict[int, _Asking] = {}
        self._deaf_until: float | None = None
        self._selector = selectors.EpollSelector()
        self._listener: _Listener | None = None
        self._is_closed, self._lock = False, threading.Lock()
        self.put(self._listen)

    def fileno(self) -> int:
        """The file that can be read when there is something to serve."""
        return self._selector.fileno()

    def _listen(self) -> None:
        """In the other thread: begin to be asked, unless the run has ended meanwhile."""
        try:
            listener = _Listener(self.folder())
        except OSError as error:
            self.message(NO_SOCKET.format(error))
            return
        with self._lock:
            self._listener = listener
            if not self._is_closed:
                self._selector.register(listener.socket, selectors.EVENT_READ)

    def serve(self) -> None:
        """Hear who asks, however slowly, and answer who has asked; neither waits nor raises."""
        for key, _ in self._selector.select(0):
            if key.data is None:
                self._accept()
            elif key.fd in self._asking:  # not let go of meanwhile
                self._attend(key.data)

    def let_go_of_late(self) -> None:
        """Let go of who has taken too long; to be called now and then."""
        now = self.clock()
        for late in [each for each in self._asking.values() if now > each.deadline]:
            self._let_go(late)
        if self._deaf_until is not None and now > self._deaf_until:
            self._deaf_until = None
            self._selector.register(self._ear, selectors.EVENT_READ)

    @property
    def _ear(self) -> socket.socket:
        assert self._listener is not None
        return self._listener.socket

    def _accept(self) -> None:
        try:
            end, _ = self._ear.accept()
        except (BlockingIOError, ConnectionError):  # it has gone again
            return
        except OSError:  # too many open files: the socket would stay ready
            self._selector.unregister(self._ear)
            self._deaf_until = self.clock() + _DEAF_SECONDS
            return
        end.setblocking(False)
        if len(self._asking) >= MOST_ASKING:
            self._let_go(next(iter(self._asking.values())))
        asking = _Asking(end, self.clock() + DEADLINE_SECONDS)
        self._asking[end.fileno()] = asking
        self._selector.register(end, selectors.EVENT_READ, asking)

    def _attend(self, asking: _Asking) -> None:
        """Take what has come from one who asks, or give what it takes."""
        try:
            done = self._hear(asking) if asking.answer is None else self._give(asking)
        except BlockingIOError:
            return
        except OSError:  # it has gone
            done = True
        if done:
            self._let_go(asking)

    def _hear(self, asking: _Asking) -> bool:
        """A line is the whole request; returns whether this is over."""
        more = asking.end.recv(_MOST_BYTES)
        asking.request += more
        if more and b"\n" not in more and len(asking.request) < _MOST_BYTES:
            return False
        asking.answer = json.dumps(self._reply(asking.request)).encode() + b"\n"
        self._selector.modify(asking.end, selectors.EVENT_WRITE, asking)
        return self._give(asking)

    def _give(self, asking: _Asking) -> bool:
        assert asking.answer is not None
        asking.answer = asking.answer[asking.end.send(asking.answer) :]
        return not asking.answer

    def _let_go(self, asking: _Asking) -> None:
        del self._asking[asking.end.fileno()]
        self._selector.unregister(asking.end)
        asking.end.close()

    def _reply(self, line: bytes) -> dict[str, Any]:
        """The answer; whatever goes wrong is who has asked's to know, and ends nothing here."""
        try:
            return self.answer(check(parsed(line), dict, "a request"))
        except (UsageError, Malformed) as error:
            return {"error": str(error)[:_LONGEST_ERROR]}
        except Exception as error:
            return {"error": f"the run could not do it: {type(error).__name__}: {error}"[:_LONGEST_ERROR]}

    def close(self) -> None:
        """Nobody is heard any more; the socket is taken out of the folder when the disk answers."""
        for asking in list(self._asking.values()):
            self._let_go(asking)
        with self._lock:
            self._is_closed = True
            self._selector.close()
            if self._listener is not None:
                self._listener.socket.shutdown(socket.SHUT_RDWR)
        self.put(self._leave)

    def _leave(self) -> None:
        if self._listener is not None:
            self._listener.close()


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """A short address of the socket in a folder, by way of the open folder."""
    held = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{held}/{SOCKET}"
    finally:
        os.close(held)


def resize(folder: Path, workers: int) -> int:
    """Ask a run for another number of workers; returns how many it will have.

    Raises:
        UsageError, KeyboardInterrupt: see `request`.
    """
    return int(request(folder, {"workers": int}, resize=workers)["workers"])


def stop(folder: Path) -> None:
    """Ask a run to stop.

    Raises:
        UsageError, KeyboardInterrupt: see `request`.
    """
    request(folder, dict, stop=True)


def request(folder: Path, kind: Any, **fields: Any) -> dict[str, Any]:
    """Ask a run for something and return its answer, however long it takes: the kernel tells when the run has ended.

    Args:
        folder: the run folder.
        kind: what an answer is, as `check` says it.
        fields: the request.

    Raises:
        UsageError: nobody answers, what answers is no run, or the run refuses.
        KeyboardInterrupt: with a text, where it has not answered yet.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            with _address(folder) as address:
                end.connect(address)
            end.sendall(json.dumps(fields).encode() + b"\n")
            answer = check(parsed(_line(end)), dict, "an answer")
        if "error" not in answer:
            return dict(check(answer, kind))
    except (OSError, ValueError) as error:
        raise UsageError(f"only a running run can be asked; {folder} does not answer ({error}).") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{folder} has not answered yet; it does what it was asked for if it still can. See its run.json."
        ) from None
    raise UsageError(printable(str(answer["error"])[:_LONGEST_ERROR]))


def _line(end: socket.socket) -> bytes:
    """What the run says, which is short."""
    line = b""
    while not line.endswith(b"\n") and (more := end.recv(_MOST_BYTES)):
        line += more
        if len(line) > 16 * _LONGEST_ERROR:
            raise Malformed("it says more than a run would")
    return line
