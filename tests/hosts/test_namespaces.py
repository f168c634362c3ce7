"""The stand-ins for hosts: they reach each other, are cut, limited, counted and killed, and leave nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from hosts.namespaces import INTERFACE, Network, Unavailable, leftovers
from waiting import limit, scaled, until

pytestmark = pytest.mark.hosts

PORT = 5000
WAIT = ["tail", "-f", "/dev/null"]
"""A command that never ends."""
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
import socket, sys
address, port, size, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
try:
    end = socket.create_connection((address, port), seconds)
    end.settimeout(None)
    end.sendall(bytes(size - 1) + b"x")
    while not end.recv(1 << 16).endswith(b"x"):
        pass
    print("answered")
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
    client = python(network, source, SEND, address, PORT, size, scaled(1))
    return client.communicate(timeout=limit())[0].strip()


@pytest.mark.parametrize("network", [3], indirect=True)
def test_every_host_reaches_every_other(network: Network) -> None:
    for host in range(network.hosts):
        serve(network, host)
    for source in range(network.hosts):
        for target in range(network.hosts):
            assert send(network, source, network.address(target)) == "answered"


def test_packets_of_a_cut_host_vanish_until_it_is_mended(network: Network) -> None:
    serve(network, 1)
    network.cut(1)
    assert send(network, 0, network.address(1)) == "TimeoutError"
    assert send(network, 1, network.address(0)) == "TimeoutError"
    network.mend(1)
    assert send(network, 0, network.address(1)) == "answered"
    assert send(network, 1, network.address(0)) == "ConnectionRefusedError"


def test_bytes_are_counted(network: Network) -> None:
    serve(network, 1)
    sent, received = network.sent(0), network.received(1)
    send(network, 0, network.address(1), 1_000_000)
    assert 1_000_000 < network.sent(0) - sent < 1_200_000
    assert 1_000_000 < network.received(1) - received < 1_200_000


def test_a_limit_comes_and_goes(network: Network) -> None:
    def rule() -> str:
        command = network.command(0, ["tc", "qdisc", "show", "dev", INTERFACE])
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    before = rule().split()[1]
    serve(network, 1)
    network.limit(50e6)
    assert "tbf" in rule()
    assert "rate 50Mbit" in rule()
    assert send(network, 0, network.address(1), 2_000_000) == "answered"
    network.limit(None)
    assert rule().split()[1] == before


def test_killing_a_host_leaves_the_others(network: Network) -> None:
    serve(network, 0)
    serve(network, 1)
    shell = network.popen(1, ["sh", "-c", "tail -f /dev/null & tail -f /dev/null"], start_new_session=True)
    until(lambda: len(network.processes(1)) >= 4)
    network.kill(1)
    assert shell.wait() == -signal.SIGKILL
    assert not network.processes(1)
    assert network.processes(0)
    assert send(network, 0, network.address(1)) == "ConnectionRefusedError"


def test_nothing_is_left_of_a_network(network: Network) -> None:
    with Network() as other:
        waiting = other.popen(0, WAIT)
        assert len(leftovers()) == 2 * (network.hosts + 1)
    assert waiting.returncode == -signal.SIGKILL
    assert len(leftovers()) == network.hosts + 1


def test_nothing_is_left_of_a_process_that_is_killed(network: Network) -> None:
    crash = """
import os, signal
from hosts.namespaces import Network
network = Network()
print(os.getpid(), network.popen(0, ["tail", "-f", "/dev/null"]).pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    tests = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", crash], cwd=tests, stdout=subprocess.PIPE, text=True, timeout=limit())
    owner, waiting = done.stdout.split()
    until(lambda: not leftovers(int(owner)) and not Path(f"/proc/{waiting}").exists(), "nothing is left")


def test_without_the_command_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match=r"root|iproute2"):
        Network()
