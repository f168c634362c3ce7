"""Hosts listen on the ports that a person allows, or refuse."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hosts.host_processes import hash_alone, job_file, running
from hosts.namespaces import Network
from unisono.errors import JobError, UsageError
from unisono.hosts.launchers import place
from unisono.hosts.ports import KERNELS, check_drawable, drawn
from unisono.settings import Settings
from waiting import limit, until

pytest.importorskip("torch.distributed")

LOW, HIGH = map(int, KERNELS.read_text().split())

TRANSPORT = """
import os, sys
from torch.distributed import HashStore
from unisono.hosts.gloo import GlooTransport, listeners
ports = range(int(sys.argv[1]), int(sys.argv[2]))
transport = GlooTransport(HashStore(), "127.0.0.1", 0, 2, 5.0, ports)
print(len(listeners()), listeners() <= {*ports}, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("text", ["", "29500", "29599-29500", "80-90", "65530-65540", "29500-29501", "a-b", 29500])
def test_what_is_no_range(text: object) -> None:
    with pytest.raises(UsageError, match="ports between hosts are a range LOW-HIGH of at least 3 from 1024 to 65535"):
        Settings(ports=text)  # type: ignore[arg-type]


def test_a_derived_port_lies_in_the_range() -> None:
    names = {"SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "a,b", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    found = [place({**names, "SLURM_JOB_ID": str(job)}, "b", range(40000, 40010)) for job in range(50)]
    assert {each.port for each in found if each is not None} <= {*range(40000, 40010)}
    named = place({**names, "SLURM_JOB_ID": "1", "MASTER_PORT": "29500"}, "b", range(40000, 40010))
    assert named is not None
    assert named.port == 29500


def test_ports_that_the_kernel_does_not_choose_are_refused() -> None:
    ports = range(LOW - 1000, LOW) if LOW > 2024 else range(HIGH + 1, HIGH + 1000)
    with pytest.raises(UsageError, match=rf"it chooses from {LOW}-{HIGH}.*sysctl -w net.ipv4.ip_local_port_range"):
        check_drawable(ports, "127.0.0.1")
    check_drawable(range(LOW, HIGH), "127.0.0.1")


def test_drawing_ends() -> None:
    with pytest.raises(JobError, match="gloo was given none of the ports 8-9"):
        drawn(lambda: None, lambda device: 7, range(8, 10))


def test_gloo_listens_within_the_range() -> None:
    command = [sys.executable, "-c", TRANSPORT, str(LOW), str(LOW + (HIGH - LOW) // 4)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit())
    assert done.stdout == "2 True\n", done.stderr


@pytest.mark.hosts
def test_hosts_listen_on_no_other_port(tmp_path: Path, network: Network) -> None:
    """Hosts whose kernels choose from a range of their own, as a pod's does."""
    for host in range(2):
        setting = "echo 29400 29499 > /proc/sys/net/ipv4/ip_local_port_range"
        subprocess.run(network.command(host, ["sh", "-c", setting]), check=True)
    job_file(tmp_path, """jobs.make(steps=9, microbatches=8, batch_size=40, data=jobs.Held(9, 40, "held"))""")
    expected = hash_alone(tmp_path)
    (tmp_path / "held").write_text("4")
    with running(tmp_path, (1, 1), "--ports", "29400-29499", network=network) as hosts:
        until(lambda: "2 hosts with their workers" in hosts[1].text)
        for host, listeners in ((0, 3), (1, 2)):
            listening = subprocess.run(network.command(host, ["ss", "-Hltn"]), capture_output=True, text=True).stdout
            found = [int(port) for port in re.findall(rf"{network.address(host)}:(\d+)", listening)]
            assert len(found) == listeners, listening
            assert all(29400 <= port < 29500 for port in found), listening
        (tmp_path / "held").unlink()
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}
