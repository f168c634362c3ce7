"""Training on a Ray cluster whose nodes are processes of this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hosts.host_processes import hash_alone, job_file
from hosts.ray.clusters import SHORT, nodes, training, unisonos
from unisono import Ray, UsageError
from unisono.hosts.ray.cluster import driver_node, sized
from waiting import limit, until

pytest.importorskip("ray", reason="the package ray is not installed: pip install '.[ray]'")
pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("ignore")]


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


def test_an_interrupt_ends_everything_and_the_run_resumes_on_other_hosts(tmp_path: Path, expected: str) -> None:
    with nodes(2) as cluster:
        with training(tmp_path, cluster) as train:
            until(lambda: len(train.steps()) > 5)
            train.process.send_signal(signal.SIGINT)
            assert train.wait() == 130, train.text
        manifest = json.loads((tmp_path / "out" / "run.json").read_text())
        assert (manifest["exit"], manifest["steps_done"]) == ("interrupted", len(train.steps()))
        assert list((tmp_path / "out" / "checkpoints").iterdir())
        until(lambda: not unisonos(tmp_path))
        (tmp_path / "held").unlink()
        with training(tmp_path, cluster, "--hosts", 1, "--resume", "out") as train:
            train.check(expected, 200)
            assert "1 host with their workers" in train.text


HERE = """
import os, torch

class OnlyHere(torch.utils.data.Dataset):
    def __init__(self):
        if not os.path.exists(os.environ.get("DATA", "data")):
            raise FileNotFoundError("there are no data on this host")
        self.inputs, self.targets = jobs.dataset().tensors

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.inputs[index] + 0.1 * torch.randn(jobs.FEATURES), self.targets[index]
"""


def test_data_on_the_drivers_node_only(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    job_file(tmp_path, SHORT.format(more="data=OnlyHere"))
    (tmp_path / "job.py").write_text((tmp_path / "job.py").read_text() + HERE)
    expected = hash_alone(tmp_path)
    with nodes(0, head_cpus=1) as cluster:
        cluster.add(2, env_vars={"DATA": "nowhere"})
        with training(tmp_path, cluster, "--data-host", 1) as train:
            train.check(expected, 30)
            assert "2 hosts with their workers" in train.text
        with training(
            tmp_path, cluster, "--data-host", 0, "--hosts", 1, "--workers-per-host", 2, "--out", "no"
        ) as train:
            assert train.wait() == 2
            assert "the node that the driver runs on; it has 1 CPUs, and each host needs 2" in train.text


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(UsageError, match="hosts must be a whole number from 1 to 65536; received 0"):
        Ray(hosts=0)
    with pytest.raises(UsageError, match="4 CPUs for 4 workers of 1 threads; received 1 hosts, and 0 nodes"):
        sized([3, 2], None, 4, 1)
    with pytest.raises(UsageError, match="CPUs: none"):
        sized([], None, None, 1)
    with pytest.raises(UsageError, match=r"takes Ray >= 2\.50.*received Ray 2\.49\.2"):
        driver_node(SimpleNamespace(__version__="2.49.2"), 1)


def test_options_for_ray_alone(tmp_path: Path) -> None:
    job_file(tmp_path, "jobs.make(steps=1)")
    command = [sys.executable, "-m", "unisono", "train", "job.py", "--hosts", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=limit())
    assert done.returncode == 2
    assert "--hosts is for --on ray; received 2 without it" in done.stderr
