"""Hosts that would compute something else than the others are refused by name, before a step is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from hosts.host_processes import PATIENT, HostProcess, free_port, hash_alone
from paths import PYTHONPATH
from waiting import limit, until

DROPOUT = """
import os, torch, jobs
from torch import nn

def net():
    return nn.Sequential(nn.Linear(jobs.FEATURES, 33), nn.ReLU(), nn.Dropout({p}), nn.Linear(33, jobs.CLASSES))

def job(p=0.3):
    return jobs.make({model}, optimizer=jobs.adamw, steps=3)
"""
"""A job in which hosts may have another `p`."""


SCRIPT = """
if __name__ == "__main__":
    import unisono
    unisono.train(job(), workers=1)
"""


def dropout(p: object, model: str = "net") -> dict[str, str]:
    return {"job.py": DROPOUT.format(p=p, model=model)}


@contextmanager
def apart(
    folder: Path, files: Sequence[Mapping[str, str]], environments: Sequence[Mapping[str, str]] = (),
    arguments: Sequence[Sequence[str]] = (), common: Sequence[object] = (),
) -> Iterator[list[HostProcess]]:  # fmt: skip
    """Hosts each of which has a disk of its own.

    Args:
        folder: where these disks are.
        files: name → text on each.
        environments, arguments: of each, where they are not the same.
        common: arguments of all.
    """
    port, hosts = free_port(), list[HostProcess]()
    try:
        for number, held in enumerate(files):
            own = folder / f"disk{number}"
            own.mkdir()
            for name, text in held.items():
                (own / name).write_text(text)
            command = ["job.py", *(arguments[number] if arguments else ()), "--workers", "1", "--out", "out", *common]
            environment = dict(environments[number]) if environments else None
            hosts.append(HostProcess(own, number, len(files), port, command, environment))
        yield hosts
    finally:
        for host in hosts:
            host.signal_all()
            host.process.wait()


def assert_refused(hosts: Sequence[HostProcess], *texts: str) -> None:
    """Every host says so in one line of its own, and has done nothing."""
    assert [host.wait() for host in hosts] == [2] * len(hosts), [host.text for host in hosts]
    for host in hosts:
        line = host.text.splitlines()[-1]
        assert all(text in line for text in texts), host.text
        assert len(line) < 600
    assert hosts[0].steps() == 0


def test_a_stale_copy_of_the_job_file_is_refused(tmp_path: Path) -> None:
    with apart(tmp_path, [dropout(0.3), dropout(0.5)]) as hosts:
        assert_refused(hosts, "hosts must run the same code; job.py differs: host '", "disk1/job.py", "disk0/job.py")


@pytest.mark.hosts
def test_another_module_beside_the_job_is_refused(tmp_path: Path) -> None:
    held = [{**dropout("__import__('helpers').P"), "helpers.py": f"P = {p}\n"} for p in (0.3, 0.5)]
    with apart(tmp_path, held) as hosts:
        assert_refused(hosts, "helpers.py differs: host '", "disk1/helpers.py")


@pytest.mark.hosts
def test_a_script_that_calls_train_is_compared_too(tmp_path: Path) -> None:
    port, scripts = free_port(), list[subprocess.Popen[str]]()
    for number, p in enumerate((0.3, 0.5)):
        own = tmp_path / f"disk{number}"
        own.mkdir()
        (own / "script.py").write_text(dropout(p)["job.py"] + SCRIPT)
        variables = {**os.environ, "PYTHONPATH": PYTHONPATH, "RANK": str(number), "WORLD_SIZE": "2",
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        scripts.append(
            subprocess.Popen([sys.executable, "script.py"], cwd=own, env=variables, stderr=subprocess.PIPE, text=True)
        )
    for script in scripts:
        assert "script.py differs: host '" in script.communicate(timeout=limit())[1].splitlines()[-1]


@pytest.mark.hosts
def test_what_files_do_not_show_is_seen_in_the_result(tmp_path: Path) -> None:
    read = dropout("float(os.environ.get('P', 0.3))")
    with apart(tmp_path, [read, read], [{}, {"P": "0.5"}]) as hosts:
        assert_refused(hosts, "the loss in one microbatch differs", "though all files and data that both have agree")


@pytest.mark.hosts
def test_other_arguments_explain_another_result(tmp_path: Path) -> None:
    given = {"job.py": dropout("p", "lambda: net(p)")["job.py"].replace("def net():", "def net(p):")}
    with apart(tmp_path, [given, given], arguments=[[], ["p=0.5"]]) as hosts:
        assert_refused(hosts, "the loss in one microbatch differs", "other arguments (p: host '", "has 0.5, host '")


CONVOLUTION = """
import torch, jobs
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.last = nn.Conv2d(1, 8, 3), nn.Linear(8 * 26 * 26, 10)

    def forward(self, images):
        return self.last(self.convolution(images).flatten(1))

def job():
    drawn = torch.Generator().manual_seed(0)
    data = [(torch.randn(1, 28, 28, generator=drawn), number % 10) for number in range(64)]
    return jobs.make(Net, data=data, batch_size=16, steps=3)
"""


@pytest.mark.hosts
def test_other_kernels_are_refused_and_named(tmp_path: Path) -> None:
    held = {"job.py": CONVOLUTION}
    with apart(tmp_path, [held, held], [{}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}]) as hosts:
        assert_refused(hosts, "in one microbatch differs", "ONEDNN_MAX_CPU_ISA", "has SSE41", "cannot give one result")


@pytest.mark.hosts
def test_other_variables_without_other_results_are_no_reason(tmp_path: Path) -> None:
    with apart(tmp_path, [dropout(0.3)] * 2, [{}, {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}]) as hosts:
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]


@pytest.mark.hosts
def test_other_first_values_are_refused(tmp_path: Path) -> None:
    drawn = dropout(0.3)["job.py"] + "\ndef own():\n    torch.manual_seed(int(os.environ['RANK']))\n    return net()\n"
    held = {"job.py": drawn.replace("jobs.make(net", "jobs.make(own")}
    with apart(tmp_path, [held, held]) as hosts:
        assert_refused(hosts, "the first value of '0.weight'")


@pytest.mark.hosts
@pytest.mark.few("evaluation", "one sample")
@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("data=jobs.dataset(100, RANK)", "the training data of host '"),
        ("evaluation=jobs.dataset(30, RANK)", "the evaluation data 'evaluation' of host '"),
        ("evaluation={'a': jobs.dataset(30), 'b': jobs.dataset(30 + RANK)}", "the evaluation data 'b' differ: host '"),
        ("evaluation=[pair if n - 17 * RANK else (pair[0] + 1, pair[1]) for n, pair in enumerate(jobs.dataset(30))]",
         "sample 0 is the first"),
    ],
    ids=["training", "evaluation", "length", "one sample"],
)  # fmt: skip
def test_of_other_data_the_set_and_the_sample_are_named(tmp_path: Path, more: str, told: str) -> None:
    text = f"import os, jobs\nRANK = int(os.environ['RANK'])\n\ndef job():\n    return jobs.make(steps=3, {more})\n"
    with apart(tmp_path, [{"job.py": text}] * 2) as hosts:
        assert_refused(hosts, "hosts must have the same data", told)


HELD = """
import jobs

def job():
    return jobs.make(jobs.Wild, optimizer=jobs.adamw, microbatches=8, batch_size=40, steps=80, order="sequential",
                     data=jobs.Held(80, 40, {held!r}))
"""


@pytest.mark.hosts
def test_a_newcomer_with_another_job_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    held = tmp_path / "held"
    text = HELD.format(held=str(held))
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "job.py").write_text(text)
    expected = hash_alone(alone)
    held.write_text("60")
    common = ["--checkpoint-every", "5", *PATIENT]
    with apart(tmp_path, [{"job.py": text}] * 2, common=common) as hosts:
        until(lambda: hosts[0].steps() > 10)
        stale = tmp_path / "stale"
        stale.mkdir()
        (stale / "job.py").write_text(text + "# an older copy\n")
        late = HostProcess(stale, 2, 3, hosts[0].port, ["job.py", "--workers", "1", "--out", "out", *common])
        hosts.append(late)
        assert late.wait() == 2, late.text
        assert "hosts must run the same code; job.py differs" in late.text.splitlines()[-1]
        held.unlink()
        assert [host.wait() for host in hosts[:2]] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts[:2]} == {expected}
    steps = [json.loads(line)["step"] for line in (tmp_path / "disk0/out/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 81))


OF_KIT = """
import os
from dataclasses import replace
from frameworks.kits import {kit} as kit

def job():
    made, scale = kit.make("wild", steps=3), float(os.environ.get("SCALE", 1))
    return replace(made, loss=lambda *given: made.loss(*given) * scale)
"""


@pytest.mark.hosts
@pytest.mark.thorough
@pytest.mark.parametrize("kit", ["jax", "keras"])
def test_in_every_framework(tmp_path: Path, kit: str) -> None:
    held = {"job.py": OF_KIT.format(kit=kit)}
    for name, other in (("alike", {}), ("apart", {"SCALE": "2"})):
        (tmp_path / name).mkdir()
        with apart(tmp_path / name, [held, held], [{}, other]) as hosts:
            if other:
                assert_refused(hosts, "the loss in one microbatch differs")
            else:
                assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
