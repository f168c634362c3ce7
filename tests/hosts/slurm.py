"""A Slurm cluster in network namespaces: its last host runs the controller and the commands, the others are nodes."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import pytest

from hosts.launched import environment
from hosts.namespaces import Network
from waiting import until

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun")
HAS_SLURM = all(map(shutil.which, PROGRAMS))

CONFIGURATION = """
ClusterName=test
SlurmctldHost={machine}({address})
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdTimeout=6
MessageTimeout=5
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


class Slurm:
    """The cluster; it ends with its network, or earlier.

    Args:
        network: its hosts.
        folder: for its files, with a short path: they are sockets, too.

    Attributes:
        login: the host for commands.
        variables: the environment of commands.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.folder, self.login = network, folder, network.hosts - 1
        for name in ("state", "munge", *(f"spool-node{host}" for host in range(self.login))):
            (folder / name).mkdir(parents=True)
        (folder / "munge").chmod(0o711)
        key = folder / "munge" / "key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        machine = socket.gethostname()
        nodes = [
            f"NodeName=node{host} NodeHostname={machine} NodeAddr={network.address(host)} CPUs=2 Port=6818"
            for host in range(self.login)
        ]
        configuration = folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(
                machine=machine, address=network.address(self.login), folder=folder, nodes="\n".join(nodes)
            )
        )
        self.variables = environment(SLURM_CONF=str(configuration), MASTER_ADDR=network.address(0))
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self._daemons:
            with daemon:
                daemon.kill()

    def _start_all(self) -> None:
        munge = self.folder / "munge"
        files = [f"--{name}-file={munge}/{name}" for name in ("key", "pid", "seed")]
        options = ["--foreground", "--force", *files, f"--log-file={munge}/log", f"--socket={munge}/socket"]
        self._daemon(self.login, ["munged", *options])
        self._wait((munge / "socket").exists)
        self._daemon(self.login, ["slurmctld", "-D"])
        for host in range(self.login):
            self.start(host)
        self._wait(lambda: self.states() == ["idle"] * self.login)

    def _wait(self, is_so: Callable[[], bool]) -> None:
        """Until something is so; where a daemon ends by itself, this machine is not one for it."""
        until(lambda: is_so() or any(daemon.poll() is not None for daemon in self._daemons))
        if not is_so():
            pytest.skip(f"Slurm does not start here: {(self.folder / 'output.txt').read_text()}")

    def start(self, host: int) -> None:
        """Start a node's daemon."""
        self._daemon(host, ["slurmd", "-D", "-N", f"node{host}"])

    def _daemon(self, host: int, command: Sequence[str]) -> None:
        # Not by `ip netns exec`: that hides control groups, without which slurmd does not start.
        inside = ["nsenter", f"--net=/run/netns/{self.network.command(host, [])[-1]}", *command]
        with (self.folder / "output.txt").open("ab") as output:
            self._daemons.append(
                subprocess.Popen(inside, env=self.variables, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
            )

    def ask(self, *command: str) -> str:
        """What a command prints."""
        return subprocess.run(
            self.network.command(self.login, command), env=self.variables, capture_output=True, text=True
        ).stdout

    def states(self) -> list[str]:
        """What Slurm thinks of each node: idle, down, …"""
        return self.ask("sinfo", "--noheader", "--Node", "--format=%T").split()
