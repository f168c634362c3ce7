"""Ray clusters whose nodes are processes of this machine, and runs on them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any
from unittest.mock import patch

import psutil

from hosts.host_processes import PATIENT, free_port
from paths import PYTHONPATH
from waiting import HANG_SECONDS, limit, until, watch

os.environ.setdefault("RAY_DASHBOARD_STARTUP_TIMEOUT_S", f"{HANG_SECONDS:.0f}")
# A busy machine's dashboard takes longer than Ray's minute. Ray reads it as it is imported.

SHORT = "jobs.make(jobs.Wild, optimizer=jobs.adamw, microbatches=8, batch_size=40, steps=30, {more})"


class Nodes:
    """A Ray cluster. Each node has folders of its own, as machines do: Ray's agents unpack and remove what travels.

    Args:
        folder: for them, with a short path: they hold sockets.
    """

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._folder, self._count = folder, 0
        self._cluster = Cluster()

    @property
    def address(self) -> str:
        """Where it is reached."""
        return str(self._cluster.address)

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted, if the head has a dashboard."""
        return f"http://{self._cluster.webui_url}"

    def add(self, cpus: int = 1, **options: object) -> Any:
        """Add a node; the first one is the head."""
        self._count += 1
        with _patient():
            return self._cluster.add_node(num_cpus=cpus, temp_dir=str(self._folder / str(self._count)), **options)

    def remove(self, node: Any) -> None:
        """Kill a node."""
        self._cluster.remove_node(node, allow_graceful=False)

    def shutdown(self) -> None:
        """End them all."""
        self._cluster.shutdown()


@contextmanager
def _patient() -> Iterator[None]:
    """A node that begins is waited for; Ray gives it up after 30 s, which a busy machine may take."""
    from ray._private import services

    known = services.get_node

    def awaited(*where: Any) -> Any:
        found: list[Any] = []

        def is_known() -> bool:
            with suppress(RuntimeError):
                found.append(known(*where))
            return bool(found)

        until(is_known)
        return found[0]

    with patch.object(services, "get_node", awaited):
        yield


@contextmanager
def _alone() -> Iterator[None]:
    """One cluster at a time on this machine: with two, hosts were not started for minutes now and then."""
    with Path(__file__).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def nodes(count: int, head_cpus: int = 0, **head: object) -> Iterator[Nodes]:
    """A Ray cluster of so many nodes with a CPU each, and a head.

    Args:
        count: how many.
        head_cpus, head: other options of the head.
    """
    # Else whatever runs beside the tests slows the hosts, not the driver. Ray spells it so.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    # Ray notes the cluster there, and makes the folder only for nodes that have none of their own.
    Path(gettempdir(), "ray").mkdir(exist_ok=True)
    with _alone(), TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        cluster = Nodes(Path(folder))
        try:
            cluster.add(head_cpus, dashboard_agent_listen_port=free_port(), **{"include_dashboard": False, **head})
            for _ in range(count):
                cluster.add()
            yield cluster
        finally:
            cluster.shutdown()


class Train:
    """`unisono train --on ray`, running.

    Args:
        folder: where `job.py` is.
        cluster: on which.
        arguments: more of it.
    """

    def __init__(self, folder: Path, cluster: Nodes, *arguments: object) -> None:
        self.folder, self.output = folder, folder / "driver.txt"
        command = [sys.executable, "-m", "unisono", "train", "job.py", "--on", "ray", "--address", cluster.address]
        command += PATIENT if "--resume" in arguments else ["--out", "out", *PATIENT]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *map(str, arguments)], cwd=folder, stdout=output, stderr=output,
                env={**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        watch(self.process)

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text()

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(limit())

    def steps(self) -> list[int]:
        """The steps recorded so far."""
        path = self.folder / "out" / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["step"] for line in lines if line.endswith("}")]

    def check(self, expected: str, steps: int) -> None:
        """It ended well, with this hash, and has recorded each step once."""
        assert self.wait() == 0, self.text
        assert re.findall(r"parameters (\w{64})", self.text) == [expected], self.text
        assert self.steps() == list(range(1, steps + 1))


@contextmanager
def training(folder: Path, cluster: Nodes, *arguments: object) -> Iterator[Train]:
    """`Train`, ended afterwards."""
    train = Train(folder, cluster, *arguments)
    try:
        yield train
    finally:
        train.process.kill()
        train.process.wait()


def unisonos(folder: Path) -> list[psutil.Process]:
    """Hosts' processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "unisono" in " ".join(process.cmdline()) and Path(process.cwd()) == folder:
                found.append(process)
    return found
