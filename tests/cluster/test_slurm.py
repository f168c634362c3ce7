"""Slurm as it is: a controller and a daemon in each namespace, and srun on the first."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.hosts import hash_alone, job_file, wait_until
from cluster.launched import LONG, TRAIN, environment, has_checkpoint, hashes, kill_unisono
from cluster.namespaces import Network

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun")
pytestmark = [
    pytest.mark.hosts,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not all(map(shutil.which, PROGRAMS)), reason="takes Slurm (Debian's packages slurm-wlm and munge)"
    ),
]

CONFIGURATION = """
ClusterName=test
SlurmctldHost={machine}({address})
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@pytest.fixture
def slurm(network: Network, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A cluster of the network's hosts; the environment of its commands."""
    folder = tmp_path / "slurm"
    for name in ("state", "munge", *(f"spool-node{host}" for host in range(network.hosts))):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o711)
    key = folder / "munge" / "key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    nodes = [
        f"NodeName=node{host} NodeHostname={socket.gethostname()} NodeAddr={network.address(host)} CPUs=2 Port=6818"
        for host in range(network.hosts)
    ]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            machine=socket.gethostname(), address=network.address(0), folder=folder, nodes="\n".join(nodes)
        )
    )
    variables = environment(SLURM_CONF=str(configuration), MASTER_ADDR=network.address(0))
    munge = ["munged", "--foreground", "--force", *(f"--{n}-file={folder}/munge/{n}" for n in ("key", "pid", "seed"))]
    commands = [
        (0, [*munge, f"--log-file={folder}/munge/log", f"--socket={folder}/munge/socket"]),
        (0, ["slurmctld", "-D"]),
        *((host, ["slurmd", "-D", "-N", f"node{host}"]) for host in range(network.hosts)),
    ]
    daemons = []
    with (folder / "output.txt").open("wb") as output:
        for host, command in commands:
            # Not by `ip netns exec`: that hides control groups, without which slurmd does not start.
            inside = ["nsenter", f"--net=/run/netns/{network.command(host, [])[-1]}", *command]
            daemons.append(
                subprocess.Popen(inside, env=variables, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
            )
            time.sleep(0.5)
    try:
        wait_for_nodes(network, variables, folder)
        yield variables
    finally:
        for daemon in daemons:
            with daemon:
                daemon.kill()


def wait_for_nodes(network: Network, variables: dict[str, str], folder: Path) -> None:
    """Until all nodes are idle; where they do not become so, the test is skipped."""
    deadline = time.monotonic() + 30
    while True:
        shown = subprocess.run(
            network.command(0, ["sinfo", "--noheader", "--format=%T %D"]), env=variables, capture_output=True, text=True
        )
        if shown.stdout.split() == ["idle", str(network.hosts)]:
            return
        if time.monotonic() > deadline:
            pytest.skip(f"Slurm does not start here: {shown.stdout}{shown.stderr}{(folder / 'output.txt').read_text()}")
        time.sleep(0.3)


def srun(network: Network, variables: dict[str, str], folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    """Start Unisono on all hosts; everything is printed to a file."""
    with (folder / "output.txt").open("wb") as output:
        return network.popen(
            0, ["srun", f"--nodes={network.hosts}", "--ntasks-per-node=1", *flags, *TRAIN],
            cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip


def test_the_same_bits(network: Network, slurm: dict[str, str], tmp_path: Path) -> None:
    job_file(tmp_path, LONG)
    expected = hash_alone(tmp_path)
    process = srun(network, slurm, tmp_path)
    assert process.wait(120) == 0, (tmp_path / "output.txt").read_text()
    assert hashes(tmp_path / "output.txt") == [expected] * 2
    assert [path.name for path in (tmp_path / "out" / "hosts").iterdir()] == ["node1"]


def test_a_lost_host(network: Network, slurm: dict[str, str], tmp_path: Path) -> None:
    job_file(tmp_path, LONG)
    expected = hash_alone(tmp_path)
    process = srun(network, slurm, tmp_path, "--no-kill", "--kill-on-bad-exit=0")
    wait_until(lambda: has_checkpoint(tmp_path))
    kill_unisono(network, 1)
    process.wait(120)
    assert hashes(tmp_path / "output.txt") == [expected], (tmp_path / "output.txt").read_text()
