"""Open MPI's mpirun as it is, with namespaces as hosts: its way to another host is a script instead of ssh."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.hosts import hash_alone, job_file, wait_until
from cluster.launched import LONG, TRAIN, environment, has_checkpoint, hashes, kill_unisono
from cluster.namespaces import Network

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mpirun") is None, reason="takes Open MPI (Debian's package openmpi-bin)"),
]

AGENT = """#!/bin/sh
host=$1
shift
case $host in
{cases}
esac
"""


def mpirun(network: Network, folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    """Start Unisono on all hosts of a network; everything is printed to a file."""
    agent = folder / "agent.sh"
    cases = []
    for host in range(network.hosts):
        inside = " ".join(network.command(host, ["unshare", "--uts", "sh", "-c"]))
        cases.append(f'{network.address(host)}) exec {inside} "hostname host{host}; $*" ;;')
    agent.write_text(AGENT.format(cases="\n".join(cases)))
    agent.chmod(0o755)
    hosts = ",".join(network.address(host) for host in range(network.hosts))
    with (folder / "output.txt").open("wb") as output:
        return network.popen(
            0,
            [
                "mpirun", "--allow-run-as-root", "-N", "1", "-H", hosts, "--mca", "plm", "rsh", "--mca",
                "plm_rsh_agent", agent, "--mca", "oob_tcp_if_include", "eth0", "-x", "PYTHONPATH", "-x",
                f"MASTER_ADDR={network.address(0)}", *flags, *TRAIN,
            ],
            cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip


def test_the_same_bits(network: Network, tmp_path: Path) -> None:
    job_file(tmp_path, LONG)
    expected = hash_alone(tmp_path)
    process = mpirun(network, tmp_path)
    assert process.wait(120) == 0, (tmp_path / "output.txt").read_text()
    assert hashes(tmp_path / "output.txt") == [expected] * 2


def test_a_lost_host(network: Network, tmp_path: Path) -> None:
    job_file(tmp_path, LONG)
    expected = hash_alone(tmp_path)
    process = mpirun(network, tmp_path, "--enable-recovery")
    wait_until(lambda: has_checkpoint(tmp_path))
    kill_unisono(network, 1)
    process.wait(120)
    assert hashes(tmp_path / "output.txt") == [expected], (tmp_path / "output.txt").read_text()
