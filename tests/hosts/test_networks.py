"""Hosts with a network between them: how many bytes cross it, what a cut cable and a stranger do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hosts.host_processes import HostProcess, hash_of, job_file, running
from hosts.namespaces import Network
from waiting import scaled, until

LAYERS = "torch.nn.Linear(jobs.FEATURES, 30_000), torch.nn.Linear(30_000, jobs.CLASSES)"
WIDE = f"jobs.make(lambda: torch.nn.Sequential({LAYERS}), optimizer=jobs.sgd, microbatches=4, steps={{steps}})"
PARAMETERS = 21 * 30_000 + 30_001 * 5
LONG = """jobs.make(jobs.Wild, optimizer=jobs.adamw, microbatches=8, batch_size=40, steps=160, order="sequential",
        data=jobs.Held(160, 40, "held"))"""
"""It goes on only as far as the file `held` says, while there is one."""


@pytest.mark.hosts
@pytest.mark.parametrize("network", [4], indirect=True)
@pytest.mark.parametrize("hosts", [2, 4])
def test_as_few_bytes_as_a_ring(tmp_path: Path, network: Network, hosts: int) -> None:
    sent = []
    for steps in (3, 23):
        folder = tmp_path / str(steps)
        folder.mkdir()
        job_file(folder, WIDE.format(steps=steps))
        before = network.sent(1)
        with running(folder, [1] * hosts, network=network) as running_hosts:
            assert [host.wait() for host in running_hosts] == [0] * hosts, [host.text for host in running_hosts]
        sent.append(network.sent(1) - before)
    least = 2 * (hosts - 1) / hosts * 4 * PARAMETERS
    assert (sent[1] - sent[0]) / 20 <= 1.01 * least + 10_000  # beats and news: a few kilobytes a second


@pytest.mark.hosts
def test_a_cut_cable_parts_a_host(tmp_path: Path, network: Network) -> None:
    job_file(tmp_path, LONG)
    expected = hash_of(LONG)
    (tmp_path / "held").write_text("60")
    timed = ("--host-timeout", scaled(3), "--checkpoint-every", "5")
    with running(tmp_path, (1, 1), *timed, network=network) as (first, second):
        until(lambda: first.steps() > 20)
        network.cut(1)
        (tmp_path / "held").write_text("100")
        assert second.wait() == 1
        assert "Go on: start it again on all hosts with --resume" in second.text
        (tmp_path / "held").unlink()
        assert first.wait() == 0, first.text
        assert first.parameters == expected


@pytest.mark.hosts
@pytest.mark.parametrize("network", [3], indirect=True)
@pytest.mark.few("before-3")
@pytest.mark.parametrize("when", ["before", "while"])
def test_of_two_that_cannot_reach_each_other_one_is_left_out(
    tmp_path: Path, network: Network, expected: str, when: str
) -> None:
    if when == "before":
        network.tear(1, 2)
    timed = ("--host-timeout", scaled(3), "--checkpoint-every", "5")
    with running(tmp_path, (1, 1, 1), *timed, network=network) as hosts:
        if when == "while":
            until(lambda: hosts[0].steps() > 20)
            network.tear(1, 2)
        assert hosts[2].wait() == 1
        assert "do not reach each other, though both reach 10.77.0.1:29400" in hosts[2].text
        if when == "while":  # what comes again there is told so, and the others are not disturbed
            arguments = ["job.py", "--workers", "1", "--out", "out", *timed]
            again = HostProcess(tmp_path, 2, 3, 29400, arguments, None, network.command(2, []), network.address(0))
            hosts.append(again)
            assert again.wait() == 1
            assert again.text.count("do not reach each other, though") == 2
        (tmp_path / "held").unlink()
        assert [host.wait() for host in hosts[:2]] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts[:2]} == {expected}
        met = re.findall(r"(\d) hosts? with their workers", hosts[0].text)
        assert met == (["3", "2"] if when == "while" else ["2"])


NOSY = """
import socket, sys
from contextlib import suppress
held = []
for port in map(int, sys.argv[2:]):
    for data in (b"", b"GET / HTTP/1.0\\r\\n\\r\\n", b"\\x80\\x04\\x95" + bytes(range(256)) * 40):
        with suppress(OSError):
            held.append(socket.create_connection((sys.argv[1], port)))
            held[-1].sendall(data)
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.hosts
@pytest.mark.parametrize("network", [3], indirect=True)
def test_a_stranger_costs_nothing(tmp_path: Path, network: Network) -> None:
    job_file(tmp_path, LONG)
    expected = hash_of(LONG)
    (tmp_path / "held").write_text("60")
    with running(tmp_path, (1, 1), "--checkpoint-every", "5", network=network) as hosts:
        until(lambda: hosts[0].steps() > 5)
        listening = subprocess.run(network.command(0, ["ss", "-Hltn"]), capture_output=True, text=True, check=True)
        where = [line.split()[3].rsplit(":", 1) for line in listening.stdout.splitlines()]
        assert {address for address, _ in where} == {network.address(0)}  # nothing listens on other interfaces
        ports = [port for _, port in where]
        with network.popen(
            2, [sys.executable, "-c", NOSY, network.address(0), *ports], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as stranger:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == b"done\n"
            (tmp_path / "held").unlink()
            assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
            stranger.kill()
        assert {host.parameters for host in hosts} == {expected}
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 161))
