"""`ray job submit`, which copies the job's folder, runs the driver in the cluster, and stops it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from hosts.host_processes import free_port, hash_of, job_file
from hosts.launched import WAITING
from hosts.manifests import document
from hosts.ray.clusters import Nodes, nodes
from paths import TESTS
from waiting import limit, until

pytest.importorskip("ray", reason="the package ray is not installed: pip install '.[ray]'")
pytest.importorskip("aiohttp_cors", reason="takes Ray's job server: pip install '.[ray]'")

from ray.job_submission import JobSubmissionClient

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("ignore")]


def job(cluster: Nodes, verb: str, *arguments: object) -> str:
    """What `ray job VERB` prints, after it has ended well."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", verb, "--address", cluster.dashboard]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=limit())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submit(cluster: Nodes, name: str, folder: Path, out: Path) -> str:
    """Submit the entry point of the RayJob, as KubeRay does; its volumes lie elsewhere, and this cluster is small."""
    entry = (
        document("rayjob.yaml", "RayJob")["spec"]["entrypoint"].replace("/jobs/", "").replace("/runs/first", str(out))
    )
    command = [sys.executable, "-m", *shlex.split(entry)]
    for option, number in (("--hosts", "2"), ("--workers-per-host", "1")):
        command[command.index(option) + 1] = number
    return job(cluster, "submit", "--no-wait", "--submission-id", name, "--working-dir", folder, "--", *command)


def shown(cluster: Nodes, what: str) -> set[str]:
    """The names of the actors, or the tasks, that the dashboard shows."""
    with urlopen(f"{cluster.dashboard}/api/v0/{what}?limit=10000", timeout=limit()) as answer:
        return {each["name"] for each in json.load(answer)["data"]["result"]["result"]}


def test_a_submitted_job_is_stopped_and_submitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "60")
    held, out, folder = tmp_path / "held", tmp_path / "out", tmp_path / "folder"
    folder.mkdir()
    job_file(folder, WAITING.replace('"held"', repr(str(held))))
    for module in ("jobs.py", "faults.py", "waiting.py", "warm.py"):  # the hosts have what travels with the job
        shutil.copy(TESTS / module, folder)
    held.write_text("150")
    expected = hash_of(WAITING)
    with nodes(2, include_dashboard=True, dashboard_port=free_port()) as cluster:
        server = JobSubmissionClient(cluster.dashboard)
        submit(cluster, "first", folder, out)
        until(lambda: (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text().count("\n") > 5)
        job(cluster, "stop", "first")
        manifest = json.loads((out / "run.json").read_text())
        assert (manifest["exit"], manifest["signal"]) == ("interrupted", 15)
        held.unlink()
        for name in ("second", "third"):
            submit(cluster, name, folder, out)
            until(lambda name=name: server.get_job_status(name).is_terminal())
            assert server.get_job_status(name) == "SUCCEEDED", server.get_job_logs(name)
            assert f"parameters {expected}" in server.get_job_logs(name)
        assert "finished: after step 200 nothing is left to do" in server.get_job_logs("third")
        until(lambda: "RayHost.run" in shown(cluster, "tasks"))
        assert "RayHost.hear" not in shown(cluster, "tasks")  # hundreds
        names = {name.rpartition("/")[2] for name in shown(cluster, "actors") if name.startswith("unisono/out-")}
        assert names == {"host-0", "host-1"}
