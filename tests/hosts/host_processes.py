"""Several Unisonos on this machine that take each other for hosts, over loopback or in network namespaces."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from hosts.namespaces import Network
from paths import PYTHONPATH
from waiting import limit, watch

PATIENT = ("--stall-seconds", "1e6")
"""A loader that a file holds up (`jobs.Held`) does not hang."""


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class HostProcess:
    """One Unisono, started as a launcher does it.

    Args:
        folder: where its job file is, and its output goes.
        number, hosts: which host, of how many.
        port: where they meet.
        arguments: of `unisono train`.
        environment: more of it.
        command: put before everything (`ip netns exec …`).
        address: where they meet.
    """

    def __init__(
        self, folder: Path, number: int, hosts: int, port: int, arguments: Sequence[object],
        environment: dict[str, str] | None = None, command: Sequence[str] = (), address: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        self.folder, self.number, self.output = folder, number, folder / f"host{number}.txt"
        self.port = port
        variables = {
            **os.environ, "PYTHONPATH": PYTHONPATH, "RANK": str(number), "WORLD_SIZE": str(hosts),
            "MASTER_ADDR": address, "MASTER_PORT": str(port), "PYTHONUNBUFFERED": "1", **(environment or {}),
        }  # fmt: skip
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, sys.executable, "-m", "unisono", "train", *map(str, arguments)],
                cwd=folder, env=variables, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        watch(self.process)

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text()

    @property
    def parameters(self) -> str:
        """The hash that it printed at its end."""
        return re.findall(r"parameters (\w{64})", self.text)[-1]

    def tree(self) -> list[psutil.Process]:
        """It and all processes that it has made."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def signal_all(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and to all that it has made, as a host that dies or hangs does."""
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(limit())

    def steps(self) -> int:
        """Steps recorded so far, where it keeps the run folder `out`."""
        path = self.folder / "out" / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


@contextmanager
def running(
    folder: Path, workers: Sequence[int], *arguments: object, environment: dict[str, str] | None = None,
    network: Network | None = None, address: str | None = None,
) -> Iterator[list[HostProcess]]:  # fmt: skip
    """Hosts with so many workers each, which train `job.py` in a folder; nothing of them is left afterwards.

    Args:
        folder: where the job file is.
        workers: of each host.
        arguments: more for `unisono train`.
        environment: more of it.
        network: a namespace for each of them, instead of loopback for all.
        address: what they are told of host 0's, instead of its IP address.
    """
    port = 29400 if network else free_port()
    address = address or (network.address(0) if network else "127.0.0.1")
    hosts = [
        HostProcess(
            folder, number, len(workers), port, ["job.py", "--workers", count, "--out", "out", *PATIENT, *arguments],
            environment,
            network.command(number, []) if network else (), address,
        )
        for number, count in enumerate(workers)
    ]  # fmt: skip
    try:
        yield hosts
    finally:
        for host in hosts:
            host.signal_all(signal.SIGCONT)
            host.signal_all()
            host.process.wait()


def job_file(folder: Path, text: str) -> None:
    """Write job.py."""
    (folder / "job.py").write_text(f"import torch\nimport jobs\n\ndef job():\n    return {text}\n")


@cache
def hash_of(text: str) -> str:
    """The hash of a job's text on one host and one worker; each text is trained once a session."""
    with TemporaryDirectory() as folder:
        job_file(Path(folder), text)
        return hash_alone(Path(folder))


def hash_alone(folder: Path, *arguments: object) -> str:
    """The hash of the same job on one host and one worker."""
    command = [sys.executable, "-m", "unisono", "train", "job.py", "--workers", "1", "--out", "alone", *arguments]
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=limit(),
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"parameters (\w{64})", done.stdout)[-1]
