"""The stand-ins for hosts: they reach each other, are cut, limited, counted and killed, and leave nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster import proxy
from cluster.namespaces import Network, Unavailable, leftovers

pytestmark = pytest.mark.hosts

PORT = 5000
SERVE = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    end, _ = listener.accept()
    while data := end.recv(1 << 16):
        end.sendall(data[-1:])
"""
"""Answers each read with its last byte."""
SEND = """
import socket, sys, time
address, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
try:
    end = socket.create_connection((address, port), timeout=1)
    end.settimeout(30)
    began = time.monotonic()
    end.sendall(bytes(size - 1) + b"x")
    while not end.recv(1 << 16).endswith(b"x"):
        pass
    print("took", time.monotonic() - began)
except OSError as error:
    print(type(error).__name__)
"""
"""Sends so many bytes and waits until the last one is answered."""


def python(network: Network, host: int, *argv: object) -> subprocess.Popen[str]:
    """A script of a host's."""
    command: Sequence[object] = [sys.executable, "-c", *argv]
    process: subprocess.Popen[str]
    process = network.popen(host, command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    return process


def ready(process: subprocess.Popen[str]) -> None:
    """Wait for its first line."""
    assert answer(process) == ["ready"]


def answer(process: subprocess.Popen[str], line: str = "") -> list[str]:
    """The words of its next line, once it has been told something."""
    assert process.stdout is not None
    assert process.stdin is not None
    if line:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return process.stdout.readline().split()


def serve(network: Network, host: int) -> None:
    """Listen on a host."""
    ready(python(network, host, SERVE, network.address(host), PORT))


def send(network: Network, source: int, address: str, size: int = 1) -> str:
    """What a script on `source` says that sends so many bytes."""
    return python(network, source, SEND, address, PORT, size).communicate(timeout=60)[0].strip()


@pytest.mark.parametrize("network", [3], indirect=True)
def test_every_host_reaches_every_other(network: Network) -> None:
    for host in range(network.hosts):
        serve(network, host)
    for source in range(network.hosts):
        for target in range(network.hosts):
            assert send(network, source, network.address(target)).startswith("took")


def test_packets_of_a_cut_host_vanish_until_it_is_mended(network: Network) -> None:
    serve(network, 1)
    network.cut(1)
    assert send(network, 0, network.address(1)) == "TimeoutError"
    assert send(network, 1, network.address(0)) == "TimeoutError"
    network.mend(1)
    assert send(network, 0, network.address(1)).startswith("took")
    assert send(network, 1, network.address(0)) == "ConnectionRefusedError"


def test_bytes_are_counted(network: Network) -> None:
    serve(network, 1)
    sent, received = network.sent(0), network.received(1)
    send(network, 0, network.address(1), 1_000_000)
    assert 1_000_000 < network.sent(0) - sent < 1_200_000
    assert 1_000_000 < network.received(1) - received < 1_200_000


def test_a_limit_holds_and_goes(network: Network) -> None:
    serve(network, 1)
    network.limit(50e6)
    seconds = float(send(network, 0, network.address(1), 2_000_000).split()[1])
    assert 0.25 < seconds < 1.0  # 0.32 s at 50 Mb/s
    network.limit(None)
    assert float(send(network, 0, network.address(1), 2_000_000).split()[1]) < 0.25


def test_killing_a_host_leaves_the_others(network: Network) -> None:
    serve(network, 0)
    serve(network, 1)
    shell = network.popen(1, ["sh", "-c", "sleep 100 & sleep 100"], start_new_session=True)
    while len(network.processes(1)) < 4:
        time.sleep(0.01)
    network.kill(1)
    assert shell.wait() == -signal.SIGKILL
    assert not network.processes(1)
    assert network.processes(0)
    assert send(network, 0, network.address(1)) == "ConnectionRefusedError"


def test_nothing_is_left_of_a_network(network: Network) -> None:
    with Network() as other:
        sleeper = other.popen(0, ["sleep", "100"])
        assert len(leftovers()) == 2 * (network.hosts + 1)
    assert sleeper.returncode == -signal.SIGKILL
    assert len(leftovers()) == network.hosts + 1


def test_nothing_is_left_of_a_process_that_is_killed(network: Network) -> None:
    crash = """
import os, signal
from cluster.namespaces import Network
network = Network()
print(os.getpid(), network.popen(0, ["sleep", "100"]).pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    tests = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", crash], cwd=tests, stdout=subprocess.PIPE, text=True, timeout=60)
    owner, sleeper = done.stdout.split()
    deadline = time.monotonic() + 10
    while leftovers(int(owner)) or Path(f"/proc/{sleeper}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_the_command_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match=r"root|iproute2"):
        Network()


def through_proxy(network: Network) -> subprocess.Popen[str]:
    """A proxy on host 1 for its server; it takes orders."""
    serve(network, 1)
    script = str(Path(proxy.__file__))
    argv = [sys.executable, script, network.address(1), PORT + 1, network.address(1), PORT]
    process: subprocess.Popen[str] = network.popen(1, argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    ready(process)
    return process


def send_slowly(network: Network) -> subprocess.Popen[str]:
    """A client of host 0 that sends a byte through the proxy for each line on its input, and says how it went."""
    script = """
import socket, sys, time
end = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)
print("ready", flush=True)
for line in sys.stdin:
    began = time.monotonic()
    try:
        end.sendall(b"x")
        print(len(end.recv(1)), time.monotonic() - began, flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""
    client = python(network, 0, script, network.address(1), PORT + 1)
    ready(client)
    return client


def test_a_proxy_delays_stalls_and_drops(network: Network) -> None:
    told = through_proxy(network)
    client = send_slowly(network)

    def order(line: str) -> None:
        assert answer(told, line) == ["done"]

    assert answer(client, "go")[0] == "1"
    order("delay 0.2")
    assert float(answer(client, "go")[1]) >= 0.4  # there and back
    order("delay 0")
    order("stall")
    assert answer(client, "go") == ["TimeoutError"]
    order("flow")
    assert answer(client, "go")[0] == "1"
    order("drop")
    assert answer(client, "go")[0] in ("ConnectionResetError", "BrokenPipeError")
    assert told.stdin is not None
    told.stdin.close()
    assert told.wait(10) == 0
