"""A TCP proxy that delays, stalls or drops what passes through it: the kernel's own tool for that is often missing.

On another host of a test's network it runs as a program, told by lines on its input ("delay 0.1", "stall", "flow",
"drop"), says "done" after each, and ends with its input:

    python proxy.py ADDRESS PORT TARGET-ADDRESS TARGET-PORT
"""

from __future__ import annotations

import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

PIECE_BYTES, PIECES = 1 << 16, 64
"""What is read at once, and how many such pieces are on their way: then the sender feels it, as on a full network."""
JOIN_SECONDS = 5.0

Address = tuple[str, int]
Waiting = queue.Queue[tuple[float, bytes]]


class Proxy:
    """Forwards connections until told otherwise.

    Args:
        target: where to.
        listen: where from; port 0 means any free one, see `address`.

    Attributes:
        delay: seconds that everything is late; it may be changed at any time.
    """

    def __init__(self, target: Address, listen: Address = ("127.0.0.1", 0)) -> None:
        self.delay = 0.0
        self._target = target
        self._flowing = threading.Event()
        self._flowing.set()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(listen)
        self.address: Address = self._listener.getsockname()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stall(self) -> None:
        """Let nothing through; connections stay open."""
        self._flowing.clear()

    def flow(self) -> None:
        """Let everything through again, what has waited first."""
        self._flowing.set()

    def drop(self) -> None:
        """Break the connections that there are, as a reset does; new ones are forwarded."""
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(
                OSError
            ):  # a closed socket that lingers for no time resets; the first line only wakes a reader
                end.shutdown(socket.SHUT_RD)
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()

    def close(self) -> None:
        """Break everything and stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.drop()
        self.flow()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _start(self, work: Callable[..., None], *given: object) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                waiting: Waiting = queue.Queue(PIECES)
                self._start(self._read, source, waiting)
                self._start(self._write, sink, waiting)

    def _read(self, source: socket.socket, waiting: Waiting) -> None:
        while True:
            try:
                piece = source.recv(PIECE_BYTES)
            except OSError:
                piece = b""
            waiting.put((time.monotonic() + self.delay, piece))
            if not piece:
                return

    def _write(self, sink: socket.socket, waiting: Waiting) -> None:
        while True:
            due, piece = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            self._flowing.wait()
            with suppress(OSError):  # a sink that is gone takes nothing: its source is read on and forgotten
                if piece:
                    sink.sendall(piece)
                else:
                    sink.shutdown(socket.SHUT_WR)
            if not piece:
                return


def main(address: str, port: str, target: str, target_port: str) -> None:
    """Do what the lines on the input say."""
    with Proxy((target, int(target_port)), (address, int(port))) as proxy:
        print("ready", flush=True)
        for line in sys.stdin:
            order, _, value = line.strip().partition(" ")
            if order == "delay":
                proxy.delay = float(value)
            else:
                {"stall": proxy.stall, "flow": proxy.flow, "drop": proxy.drop}[order]()
            print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
