"""Data that lie on one host only: the same bits, and errors that name the place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hosts.host_processes import hash_alone, job_file, running
from waiting import until

HERE = '''
import os
import numpy, random, torch

class OnlyHere(torch.utils.data.Dataset):
    """Random augmentation: what a sample is depends on the generators."""

    def __init__(self, samples, seed):
        if os.environ.get("RANK", "{there}") != "{there}":
            raise FileNotFoundError("there are no data on this host")
        self.inputs, self.targets = jobs.dataset(samples, seed).tensors

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        if index == {broken}:
            raise ValueError("sample 7 is damaged")
        noise = torch.randn(jobs.FEATURES) + random.random() + float(numpy.random.rand())
        return self.inputs[index] + 0.1 * noise, self.targets[index]

def training():
    return OnlyHere(100, 1)

def evaluation():
    return {{"one": OnlyHere(30, 2), "two": OnlyHere(20, 3)}}
'''

JOB = (
    "jobs.make(jobs.Wild, optimizer=jobs.adamw, microbatches=8, batch_size=40, steps={steps}, data=training, "
    "evaluation=evaluation, metrics={{'accuracy': jobs.accuracy}})"
)


def write(folder: Path, there: int, broken: int = -1, steps: int = 9) -> None:
    job_file(folder, JOB.format(steps=steps))
    path = folder / "job.py"
    path.write_text(path.read_text() + HERE.format(there=there, broken=broken))


@pytest.mark.hosts
@pytest.mark.few("1")
@pytest.mark.parametrize("there", [0, 1])
def test_data_on_one_host_give_the_same_bits(tmp_path: Path, there: int) -> None:
    write(tmp_path, there)
    expected = hash_alone(tmp_path)
    # Nobody waits in vain: that would last as long as a silent host is borne.
    with running(tmp_path, (1, 2), "--data-host", there, "--host-timeout", "1000") as hosts:
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}


@pytest.mark.hosts
def test_a_damaged_sample_is_named_on_every_host(tmp_path: Path) -> None:
    write(tmp_path, 0, broken=7)
    with running(tmp_path, (1, 1), "--data-host", 0) as hosts:
        assert [host.wait() for host in hosts] == [1, 1]
        for host in hosts:
            assert "sample 7" in host.text
            assert "sample 7 is damaged" in host.text


@pytest.mark.hosts
def test_without_the_data_hosts_data_all_stop(tmp_path: Path) -> None:
    write(tmp_path, 1, steps=10**6)
    with running(tmp_path, (1, 1), "--data-host", 1) as hosts:
        until(lambda: hosts[0].steps() > 2)
        hosts[1].signal_all()
        assert hosts[0].wait() == 1
        assert "the data lie on host 1" in hosts[0].text
        assert "Resume the run from its checkpoint" in hosts[0].text


@pytest.mark.hosts
def test_the_wrong_host_says_what_is_missing(tmp_path: Path) -> None:
    write(tmp_path, 1)
    # Host 0 fails at once, and stays until the other one has come and heard why.
    with running(tmp_path, (1, 1), "--data-host", 0, "--host-timeout", "1000") as hosts:
        assert [host.wait() for host in hosts] == [1, 1]
        assert "there are no data on this host" in hosts[0].text
        assert re.search("host .*: FileNotFoundError in the job's code", hosts[1].text)


@pytest.mark.hosts
def test_hosts_must_agree_on_the_number(tmp_path: Path) -> None:
    write(tmp_path, 0)
    with running(tmp_path, (1, 1), "--data-host", 2) as hosts:
        assert [host.wait() for host in hosts] == [2, 2]
        assert "0 to 1; received 2" in hosts[0].text
