"""What becomes of a run on Ray when a node, a host or the driver is lost."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from hosts.ray.clusters import nodes, training, unisonos
from waiting import scaled, until

pytest.importorskip("ray", reason="the package ray is not installed: pip install '.[ray]'")
pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("ignore")]


def actor_of_the_first(folder: Path) -> psutil.Process:
    """The actor of the host that keeps the run folder."""
    actor = psutil.Process(json.loads((folder / "out" / "run.json").read_text())["process"]).parent()
    assert actor is not None
    return actor


def test_a_lost_node_costs_nothing_and_another_joins(tmp_path: Path, expected: str) -> None:
    with nodes(1) as cluster:
        node = cluster.add()
        with training(tmp_path, cluster, "--hosts", 2, "--host-timeout", scaled(3)) as train:
            until(lambda: len(train.steps()) > 10)
            cluster.remove(node)
            until(lambda: "1 host with" in train.text)
            cluster.add()
            until(lambda: train.text.count("2 hosts with their workers") >= 2)
            (tmp_path / "held").unlink()
            train.check(expected, 200)


def test_a_node_that_is_added_is_waited_for_then_spare(tmp_path: Path, expected: str) -> None:
    with nodes(1) as cluster, training(tmp_path, cluster, "--hosts", 2, "--workers-per-host", 1) as train:
        until(lambda: "has not got 2 nodes with 1 free CPUs each yet" in train.text)
        cluster.add()
        until(lambda: len(train.steps()) > 10)
        assert "2 hosts with their workers" in train.text
        cluster.add()
        (tmp_path / "held").unlink()
        train.check(expected, 200)
        assert "3 hosts" not in train.text


def test_the_folder_is_taken_over_when_its_node_dies(tmp_path: Path, expected: str) -> None:
    with (
        nodes(2) as cluster,
        training(tmp_path, cluster, "--host-timeout", scaled(3), "--checkpoint-every", 5) as train,
    ):
        until(lambda: len(train.steps()) > 10)
        node = actor_of_the_first(tmp_path).parent()
        assert node is not None
        for process in (node, *node.children(recursive=True)):
            process.kill()
        until(lambda: "keeps the run folder" in train.text)
        (tmp_path / "held").unlink()
        train.check(expected, 200)


def test_a_host_that_hangs_is_replaced(tmp_path: Path, expected: str) -> None:
    with nodes(2) as cluster, training(tmp_path, cluster, "--host-timeout", scaled(3)) as train:
        until(lambda: len(train.steps()) > 10)
        actor = actor_of_the_first(tmp_path)
        for process in (actor, *actor.children(recursive=True)):
            process.suspend()
        until(lambda: "Ray is asked for another one" in train.text and "keeps the run folder" in train.text)
        until(lambda: train.text.count("2 hosts with their workers") >= 2)
        (tmp_path / "held").unlink()
        train.check(expected, 200)


@pytest.mark.few("the first")
@pytest.mark.parametrize("first", [False, True], ids=["another one", "the first"])
def test_a_host_that_is_told_to_go_is_replaced(tmp_path: Path, expected: str, first: bool) -> None:
    with nodes(2) as cluster, training(tmp_path, cluster, "--checkpoint-every", 5) as train:
        until(lambda: len(train.steps()) > 10)
        keeper = json.loads((tmp_path / "out" / "run.json").read_text())["process"]
        hosts = [
            process for process in unisonos(tmp_path) if "unisono.hosts.ray.host_process" in " ".join(process.cmdline())
        ]
        (told,) = [process for process in hosts if (process.pid == keeper) is first]
        told.terminate()
        until(lambda: "was told to go (SIGTERM); 1 host goes on" in train.text)
        until(lambda: "it was told to go); Ray is asked for another one" in train.text)
        until(lambda: train.text.count("2 hosts with their workers") >= 2)
        (tmp_path / "held").unlink()
        train.check(expected, 200)


def test_without_the_driver_all_hosts_end_and_the_run_resumes(tmp_path: Path, expected: str) -> None:
    with nodes(2) as cluster:
        with training(tmp_path, cluster, "--checkpoint-every", 5) as train:
            until(lambda: len(train.steps()) > 10)
            train.process.kill()
            until(lambda: not unisonos(tmp_path))
        (tmp_path / "held").unlink()
        with training(tmp_path, cluster, "--resume", "out") as train:
            train.check(expected, 200)
