"""Hosts that are told host 0's name, with what stands in their /etc/hosts."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hosts.host_processes import hash_alone, job_file, running
from hosts.launched import environment
from hosts.namespaces import Network
from waiting import limit, until

pytestmark = pytest.mark.hosts

JOB = "jobs.make(steps=3)"


def meet(folder: Path, network: Network, *arguments: object) -> list[str]:
    """What two hosts print that are told to meet at node0, with the hash of one alone."""
    job_file(folder, JOB)
    with running(folder, (1, 1), *arguments, network=network, address="node0") as hosts:
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {hash_alone(folder)}
        return [host.text for host in hosts]


def test_host_0_whose_own_name_is_its_loopback(tmp_path: Path, network: Network) -> None:
    network.names(0, node0="127.0.1.1")  # as Debian and Ubuntu write it
    network.names(1, node0=network.address(0))
    first, _ = meet(tmp_path, network)
    assert "host 0 listens at 10.77.0.1:29400: node0 is 127.0.1.1 here, its own machine's only" in first


def test_torchruns_hosts_whose_names_are_their_loopbacks(tmp_path: Path, network: Network) -> None:
    """The store is torchrun's, and found at any address; what hosts send to each other is not."""
    job_file(tmp_path, JOB)
    agents = []
    for host in range(2):
        network.names(host, node0=network.address(0) if host else "127.0.1.1", node1="127.0.1.1")
        where = ["--nnodes=2", f"--node-rank={host}", "--master-addr=node0", "--master-port=29500"]
        command = [sys.executable, "-m", "torch.distributed.run", *where, "--nproc-per-node=1", "-m", "unisono"]
        with (tmp_path / f"host{host}.txt").open("wb") as output:
            agents.append(network.popen(
                host, [*command, "train", "job.py", "--workers", "1", "--out", "out"], cwd=tmp_path, env=environment(),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            ))  # fmt: skip
    texts = [(tmp_path / f"host{host}.txt").read_text for host in range(2)]
    assert [agent.wait(limit()) for agent in agents] == [0, 0], [text() for text in texts]
    assert all("2 hosts with their workers" in text() for text in texts)


def test_of_several_interfaces_one_must_be_named(tmp_path: Path, network: Network) -> None:
    network.second_interface()
    network.names(0, node0="127.0.1.1")
    network.names(1, node0=network.second_address(0))
    job_file(tmp_path, JOB)
    with running(tmp_path, (1, 1), network=network, address="node0") as hosts:
        assert hosts[0].wait() == 2
        assert "its interfaces are eth0 (10.77.0.1), eth1 (192.168.77.1). Name one with --interface" in hosts[0].text
        hosts[1].process.send_signal(signal.SIGINT)
        assert hosts[1].wait() == 130
    meet(tmp_path, network, "--interface", "eth1")


@pytest.mark.few("only")
@pytest.mark.parametrize("only", [True, False], ids=["only", "and IPv4"])
def test_ipv6(tmp_path: Path, network: Network, only: bool) -> None:
    network.ipv6(only)
    for host in range(2):
        network.names(host, node0=network.ipv6_address(0), **({} if only else {"node0 ": network.address(0)}))
    meet(tmp_path, network)


def test_a_name_that_comes_late_is_waited_for(tmp_path: Path, network: Network) -> None:
    """Pods start in any order: host 0's name is known to no other host yet, nor to itself."""
    for host in range(2):
        network.names(host)
    job_file(tmp_path, JOB)
    with running(tmp_path, (1, 1), network=network, address="node0") as hosts:
        for host in hosts:
            until(lambda host=host: "node0:29400, as the launcher says: the name 'node0' has no address" in host.text)
        for host in range(2):
            network.names(host, node0=network.address(0))
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]


def test_who_waits_hears_an_interrupt(tmp_path: Path, network: Network) -> None:
    network.names(1, node0=network.address(0))
    job_file(tmp_path, JOB)
    with running(tmp_path, (1, 1), network=network, address="node0") as hosts:
        hosts[0].signal_all()
        until(lambda: f"{network.address(0)} takes no connection (Connection refused)" in hosts[1].text)
        hosts[1].process.send_signal(signal.SIGINT)
        assert hosts[1].wait() == 130, hosts[1].text


def test_a_tenth_of_a_second_between_hosts(tmp_path: Path, network: Network) -> None:
    network.delay(0.05)
    data = 'order="sequential", data=jobs.Held(6, 32, "held")'
    job_file(tmp_path, f"jobs.make(jobs.Wild, optimizer=jobs.adamw, {data})")
    expected = hash_alone(tmp_path)
    (tmp_path / "held").write_text("3")
    with running(tmp_path, (1, 1), network=network) as hosts:
        until(lambda: hosts[0].steps() > 0)
        round_trips = network.round_trips(1)  # to the store, and between workers
        assert len(round_trips) > 1
        assert min(round_trips) >= 100
        (tmp_path / "held").unlink()
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}
