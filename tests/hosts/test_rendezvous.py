"""Looking for the store: what is there instead of it is told, and strangers at its port cost nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from hosts.host_processes import free_port
from unisono.errors import JobError
from unisono.hosts import waiting as retrying
from unisono.hosts.place import Place
from unisono.hosts.rendezvous import find_store
from unisono.hosts.store import AnotherRun, Store
from waiting import limit

pytest.importorskip("torch.distributed")

PLACE = Place(1, 2, "127.0.0.1", 1, False, "unisono/7.0", "tests", "b-1")


@contextmanager
def answering(greeting: bytes) -> Iterator[int]:
    """The port of a program that greets who connects, hears them, and is no store."""
    held = list[socket.socket]()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    held.append(server.accept()[0])
                    with suppress(OSError):
                        held[-1].sendall(greeting)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for end in held:
        end.close()


def test_what_is_no_store_of_this_run_is_told() -> None:
    with (
        answering(b"SSH-2.0-OpenSSH_9.2\r\n") as port,
        pytest.raises(JobError, match=r"but another program\. See what"),
    ):
        find_store(replace(PLACE, port=port), None, 1.0, print)
    served = replace(PLACE, host=0, port=free_port(), serves=True, prefix="unisono/3.0")
    place, address, store = find_store(served, None, limit(), print)
    with pytest.raises(AnotherRun, match=r"another run meet \('unisono/3\.0'\), where .* \('unisono/7\.0'\)"):
        find_store(replace(place, host=1, serves=False, prefix="unisono/7.0"), None, 0.5, print)
    assert (place.address, address) == ("127.0.0.1", "127.0.0.1")
    del store


def test_what_takes_connections_and_says_nothing_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "SAY_SECONDS", 0.1)
    said = list[str]()
    with answering(b"") as port, pytest.raises(JobError, match="takes connections, and no store answers, for 3 s"):
        find_store(replace(PLACE, port=port), None, 0.5, said.append, 3.0)
    assert said


def test_a_port_that_is_taken_is_named() -> None:
    with answering(b"") as port, pytest.raises(JobError, match=rf"at 127\.0\.0\.1:{port}, and cannot: Address already"):
        find_store(replace(PLACE, host=0, port=port, serves=True), None, 1.0, print)


def test_strangers_at_the_stores_port_cost_nothing() -> None:
    """Health checks and scanners, which say nothing, nonsense, or leave at once."""
    served = replace(PLACE, host=0, port=free_port(), serves=True)
    place, address, store = find_store(served, None, limit(), print)
    strangers = []
    for greeting in (b"", b"GET /healthz HTTP/1.0\r\n\r\n", bytes(range(256)) * 9):
        for stays in (True, False):
            strangers.append(socket.create_connection((place.address, place.port)))
            strangers[-1].sendall(greeting)
            if not stays:
                strangers.pop().close()
    client = Store(replace(place, serves=False), address, False, limit())
    client.put("key", "one")
    assert store.find("key") == "one"
    for stranger in strangers:
        stranger.close()
