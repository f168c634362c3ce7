"""Open MPI's mpirun as it is, with namespaces as hosts: its way to another host is a script instead of ssh."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from hosts.launched import AGAIN, TRAIN, environment, has_checkpoint, hashes, kill_unisono, tell_unisono
from hosts.namespaces import Network
from waiting import limit, until

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.skipif(shutil.which("mpirun") is None, reason="takes Open MPI (Debian's package openmpi-bin)"),
]

AGENT = """#!/bin/sh
host=$1
shift
case $host in
{cases}
esac
"""


def mpirun(network: Network, folder: Path, *flags: str, train: Sequence[str] = TRAIN) -> subprocess.Popen[bytes]:
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
                f"MASTER_ADDR={network.address(0)}", *flags, *train,
            ],
            cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip


def test_the_same_bits(network: Network, tmp_path: Path, expected: str) -> None:
    (tmp_path / "held").unlink()
    process = mpirun(network, tmp_path)
    assert process.wait(limit()) == 0, (tmp_path / "output.txt").read_text()
    assert hashes(tmp_path / "output.txt") == [expected] * 2


def test_a_lost_unisono(network: Network, tmp_path: Path, expected: str) -> None:
    output = tmp_path / "output.txt"
    process = mpirun(network, tmp_path, "--enable-recovery")
    until(lambda: has_checkpoint(tmp_path))
    kill_unisono(network, 1)
    until(lambda: "1 host with" in output.read_text())
    (tmp_path / "held").unlink()
    process.wait(limit())
    assert hashes(output) == [expected], output.read_text()


def test_a_unisono_that_is_told_to_go(network: Network, tmp_path: Path, expected: str) -> None:
    output = tmp_path / "output.txt"
    process = mpirun(network, tmp_path)
    until(lambda: has_checkpoint(tmp_path))
    tell_unisono(network, 1, signal.SIGTERM)
    until(lambda: "was told to go (SIGTERM); 1 host goes on" in output.read_text())
    (tmp_path / "held").unlink()
    assert process.wait(limit()) == 0, output.read_text()
    assert hashes(output) == [expected]


@pytest.mark.few("of rank 0")
@pytest.mark.parametrize(
    ("lost", "flags"), [(0, ["--enable-recovery"]), (1, [])], ids=["of rank 0", "without --enable-recovery"]
)
def test_a_lost_unisono_that_ends_the_run(
    network: Network, tmp_path: Path, expected: str, lost: int, flags: list[str]
) -> None:
    process = mpirun(network, tmp_path, *flags)
    until(lambda: has_checkpoint(tmp_path))
    kill_unisono(network, lost)
    process.wait(limit())
    (tmp_path / "held").unlink()
    again = mpirun(network, tmp_path, train=AGAIN)
    assert again.wait(limit()) == 0, (tmp_path / "output.txt").read_text()
    assert hashes(tmp_path / "output.txt") == [expected] * 2


@pytest.mark.few("0")
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_host(network: Network, tmp_path: Path, expected: str, lost: int) -> None:
    """Where it is not the first, Open MPI sometimes ends the others and sometimes not; the run is sound either way."""
    output = tmp_path / "output.txt"
    process = mpirun(network, tmp_path, "--enable-recovery")
    until(lambda: has_checkpoint(tmp_path))
    network.kill(lost)
    until(lambda: process.poll() is not None or "1 host with" in output.read_text())
    (tmp_path / "held").unlink()
    until(lambda: process.poll() is not None or hashes(output))
    if not hashes(output):
        until(lambda: not any(network.processes(host) for host in range(2)))
        assert mpirun(network, tmp_path, train=AGAIN).wait(limit()) == 0, output.read_text()
    assert set(hashes(output)) == {expected}  # where the others have gone on, mpirun itself waits for the lost host
