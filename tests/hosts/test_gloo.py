"""Connections between hosts: who cannot be reached is known, and a silent connection breaks by itself."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

import pytest

from unisono.hosts.gloo import break_when_silent, connections
from waiting import limit

pytest.importorskip("torch.distributed")

THREADS = """
import json, os, threading
import numpy as np
from torch.distributed import HashStore
from unisono.hosts.gloo import GlooTransport, Unreachable

store, said = HashStore(), {}

def host(number):
    transport = GlooTransport(store, "127.0.0.1", number, 3, TIMEOUT)
    try:
        transport.meet()
    except Unreachable as error:
        said[number] = [error.hosts, str(error)]
        return
    arrays = {other: np.zeros(1, np.uint8) for other in range(3) if other != number}
    pending = [transport.receive(array, other, 5) for other, array in arrays.items()]
    pending += [transport.send(np.full(1, 10 * number + other, np.uint8), other, 5) for other in arrays]
    for each in pending:
        each.wait()
    said[number] = [int(array[0]) for array in arrays.values()]

silent = [GlooTransport(store, "127.0.0.1", number, 3, TIMEOUT) for number in SILENT]
store.add("here", len(silent))
threads = [threading.Thread(target=host, args=(number,)) for number in range(3) if number not in SILENT]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(said), flush=True)
os._exit(0)  # gloo's own threads may still try
"""


def said(timeout: float, silent: tuple[int, ...]) -> Any:
    """What three hosts say that are threads of a process, of which some never answer."""
    text = THREADS.replace("TIMEOUT", str(timeout)).replace("SILENT", str(silent))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=limit())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_meets_each_and_is_sent_what_is_its() -> None:
    assert said(20, ()) == {"0": [10, 20], "1": [1, 21], "2": [2, 12]}


def test_who_is_there_and_does_not_answer_is_unreachable() -> None:
    assert said(1, (2,)) == {number: [[2], "no answer by a new connection for 1 s"] for number in ("0", "1")}


def test_the_kernel_is_asked_to_break_silent_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as mine:
        found = {connection.fileno() for connection in connections()}
        assert {server.fileno(), mine.fileno()} <= found
        break_when_silent(mine, 10)
        options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
        assert [mine.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [10_000, 3, 3]
        assert mine.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        mine.sendall(b"as before")  # lent sockets were not closed
