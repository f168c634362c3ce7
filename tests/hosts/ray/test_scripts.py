"""Training on Ray from a script: a job in `__main__`, a driver that is a task, what others see of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hosts.host_processes import hash_alone, job_file
from hosts.launched import WAITING
from hosts.ray.clusters import nodes, unisonos
from paths import PYTHONPATH
from waiting import limit, until

pytest.importorskip("ray", reason="the package ray is not installed: pip install '.[ray]'")
pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("ignore")]

JOB = """
import sys
from pathlib import Path
import ray, torch
import unisono

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(), torch.nn.Linear(4, 2))

    def forward(self, inputs):
        return self.layers(inputs)

def data():
    draw = torch.Generator().manual_seed(1)
    return torch.utils.data.TensorDataset(
        torch.randn(40, 3, generator=draw), torch.randint(2, (40,), generator=draw)
    )

def job():
    return unisono.Job(model=Net, loss=torch.nn.functional.cross_entropy, data=data, batch_size=10, microbatches=4,
                       steps=12, optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=0.01))
"""

SCRIPT = (
    JOB
    + """
if __name__ == "__main__":
    run = unisono.train(job(), on=unisono.Ray(address=sys.argv[1], hosts=2, workers_per_host=1), out="out")
    print(run.parameters_sha256)
"""
)

TASK = """
import os, sys
from pathlib import Path
import ray, unisono
import job as mine
from waiting import until

@ray.remote(num_cpus=0)
def drive(out):
    unisono.train(mine.job(), on=unisono.Ray(hosts=2, workers_per_host=1), out=out, stall_seconds=1e6)

if __name__ == "__main__":
    modules = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
    ray.init(address=sys.argv[2], namespace="mine", runtime_env=modules, log_to_driver=False)
    asked = drive.remote(sys.argv[1])
    records = Path(sys.argv[1], "metrics.jsonl")
    until(lambda: records.exists() and records.read_text().count("\\n") >= 5)
    names = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
    groups = [each["name"] for each in ray.util.placement_group_table().values() if each["state"] == "CREATED"]
    actor = ray.get_actor(names[0], "mine")
    print(sorted(names), groups, ray.get(actor.name.remote()), sep="|", flush=True)
    ray.cancel(asked)
    until(lambda: not ray.util.list_named_actors())
"""


def script(folder: Path, text: str, *arguments: object) -> str:
    """Run a script; what it has printed."""
    (folder / "script.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "script.py", *map(str, arguments)], cwd=folder, capture_output=True, text=True,
        timeout=limit(), env={**os.environ, "PYTHONPATH": os.pathsep.join([PYTHONPATH, str(folder)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_job_in_a_script(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    expected = hash_alone(tmp_path)
    with nodes(2) as cluster:
        assert script(tmp_path, SCRIPT, cluster.address).splitlines()[-1] == expected


def test_a_driver_that_is_a_task_is_cancelled(tmp_path: Path) -> None:
    job_file(tmp_path, WAITING.replace('"held"', repr(str(tmp_path / "held"))))
    (tmp_path / "held").write_text("150")
    out = tmp_path / "out"
    with nodes(2) as cluster:
        seen = script(tmp_path, TASK, out, cluster.address)
        until(lambda: not unisonos(tmp_path))
        manifest = json.loads((out / "run.json").read_text())
        names, groups, _ = seen.splitlines()[0].split("|")
        stem = f"unisono/out-{manifest['key'].split('-')[-1]}"
        assert (names, groups) == (str([f"{stem}/host-0", f"{stem}/host-1"]), str([stem]))
