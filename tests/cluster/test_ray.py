"""Training on a Ray cluster whose nodes are processes of this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.hosts import LIMIT_SECONDS, TESTS, hash_alone, job_file, wait_until
from unisono import Ray, UsageError
from unisono.cluster.ray import sized

pytest.importorskip("ray", reason="the package ray is not installed: pip install unisono[ray]")
pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("ignore")]

SHORT = "jobs.make(jobs.Wild, optimizer=jobs.adamw, microbatches=8, batch_size=40, steps=30, {more})"
LONG = """jobs.make(jobs.Wild, optimizer=jobs.adamw, microbatches=8, batch_size=40, steps=150,
        loss=lambda outputs, targets: [time.sleep(0.1 * __import__("os").path.exists("slow")),
         torch.nn.functional.cross_entropy(outputs, targets)][1])"""
"""It takes its time as long as there is a file `slow`."""


@contextmanager
def nodes(count: int) -> Iterator[Any]:
    """A Ray cluster of so many nodes with a CPU each, and a head with none."""
    from ray.cluster_utils import Cluster

    # Else whatever runs beside the tests slows the hosts, not the driver. Ray spells it so.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1)
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

    def __init__(self, folder: Path, cluster: Any, *arguments: object) -> None:
        self.folder, self.output = folder, folder / "driver.txt"
        command = [sys.executable, "-m", "unisono", "train", "job.py", "--out", "out", "--on", "ray", "--address"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, cluster.address, *map(str, arguments)], cwd=folder, stdout=output, stderr=output,
                env={**os.environ, "PYTHONPATH": str(TESTS), "PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text()

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(LIMIT_SECONDS)

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
def training(folder: Path, cluster: Any, *arguments: object) -> Iterator[Train]:
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


def test_the_same_bits_and_errors(tmp_path: Path) -> None:
    job_file(tmp_path, SHORT.format(more="evaluation=jobs.dataset(30, 2)"))
    expected = hash_alone(tmp_path)
    with nodes(2) as cluster:
        with training(tmp_path, cluster) as train:
            assert train.wait() == 0, train.text
            assert f"parameters {expected}" in train.text
            assert "2 hosts with their workers" in train.text
        with training(tmp_path, cluster, "--hosts", 3) as train:
            assert train.wait() == 2
            assert "received --hosts 3, and the cluster has 2" in train.text
        job_file(tmp_path, "jobs.make(steps=3, loss=lambda outputs, targets: wrong)")
        with training(tmp_path, cluster, "--out", "failed") as train:
            assert train.wait() == 1
            assert train.text.splitlines()[-1] == "NameError: name 'wrong' is not defined"


@pytest.mark.timeout(300)
def test_a_lost_node_costs_nothing_and_another_joins(tmp_path: Path) -> None:
    job_file(tmp_path, LONG)
    expected = hash_alone(tmp_path)
    (tmp_path / "slow").touch()
    with nodes(1) as cluster:
        node = cluster.add_node(num_cpus=1)
        with training(tmp_path, cluster, "--hosts", 2, "--host-timeout", 3) as train:
            wait_until(lambda: len(train.steps()) > 10)
            cluster.remove_node(node, allow_graceful=False)
            wait_until(lambda: "1 host with" in train.text)
            cluster.add_node(num_cpus=1)
            wait_until(lambda: train.text.count("2 hosts with their workers") == 2)
            (tmp_path / "slow").unlink()
            train.check(expected, 150)


@pytest.mark.timeout(300)
def test_the_folder_is_taken_over_when_its_host_dies(tmp_path: Path) -> None:
    job_file(tmp_path, LONG)
    expected = hash_alone(tmp_path)
    (tmp_path / "slow").touch()
    with nodes(2) as cluster, training(tmp_path, cluster, "--host-timeout", 3, "--checkpoint-every", 5) as train:
        wait_until(lambda: len(train.steps()) > 10)
        actor = psutil.Process(json.loads((tmp_path / "out" / "run.json").read_text())["process"]).parent()
        assert actor is not None
        actor.kill()
        wait_until(lambda: "keeps the run folder" in train.text)
        (tmp_path / "slow").unlink()
        train.check(expected, 150)


def test_an_interrupt_ends_everything(tmp_path: Path) -> None:
    job_file(tmp_path, LONG)
    (tmp_path / "slow").touch()
    with nodes(2) as cluster, training(tmp_path, cluster) as train:
        wait_until(lambda: len(train.steps()) > 5)
        train.process.send_signal(signal.SIGINT)
        assert train.wait() == 130, train.text
        manifest = json.loads((tmp_path / "out" / "run.json").read_text())
        assert (manifest["exit"], manifest["steps_done"]) == ("interrupted", len(train.steps()))
        assert list((tmp_path / "out" / "checkpoints").iterdir())
        wait_until(lambda: not unisonos(tmp_path), 10)


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(UsageError, match="hosts must be at least 1; received 0"):
        Ray(hosts=0)
    with pytest.raises(UsageError, match="4 CPUs for 4 workers of 1 threads; received 2 hosts, and 1 nodes"):
        sized([4, 2], 2, 4, 1)
    with pytest.raises(UsageError, match="CPUs: none"):
        sized([], None, None, 1)


def test_options_for_ray_alone(tmp_path: Path) -> None:
    job_file(tmp_path, "jobs.make(steps=1)")
    command = [sys.executable, "-m", "unisono", "train", "job.py", "--hosts", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert done.returncode == 2
    assert "--hosts is for --on ray; received 2 without it" in done.stderr
