"""Hosts that train together: the same bits however many there are, and whatever happens to them."""

from __future__ import annotations

import json
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import jobs
from hosts.host_processes import PATIENT, HostProcess, free_port, hash_alone, hash_of, job_file, running
from unisono.errors import UsageError
from unisono.runtime.supervisor import control_socket as control
from waiting import scaled, until

WILD = "jobs.make(jobs.Wild, optimizer=jobs.adamw, clip_norm=0.5, microbatches=8, batch_size=40, steps=9, {more})"
HELD = """jobs.make(jobs.Wild, optimizer=jobs.adamw, microbatches=8, batch_size=40, steps=80, order="sequential",
        data=jobs.Held(80, 40, "held"))"""
"""It goes on only as far as the file `held` says, while there is one."""
OWN = tuple(
    f"lambda model: __import__('own_code.optimizers').optimizers.{name}(model.parameters())"
    for name in ("InItself", "Soaplike")
)
"""Optimizers that are stepped as they are: what they hold travels as a tree."""
LONG = f"jobs.make(jobs.Wild, optimizer=jobs.adamw, microbatches=8, batch_size=40, steps={jobs.FOR_EVER})"


@pytest.mark.parametrize(
    "workers",
    [
        (1, 2),
        pytest.param((1, 2, 4), marks=pytest.mark.hosts),
        *(pytest.param(w, marks=[pytest.mark.hosts, pytest.mark.thorough]) for w in ((2, 2), (1, 1, 1, 1))),
    ],
    ids=str,
)
def test_the_same_bits_on_any_hosts(tmp_path: Path, workers: tuple[int, ...]) -> None:
    loud = "loss=lambda o, t: [print('hello'), torch.nn.functional.cross_entropy(o, t)][1]"
    evaluated = "evaluation=jobs.dataset(30, 2), metrics={'accuracy': jobs.accuracy}"
    job_file(tmp_path, WILD.format(more=f"{loud}, {evaluated}"))
    expected = hash_alone(tmp_path)
    with running(tmp_path, workers) as hosts:
        assert [host.wait() for host in hosts] == [0] * len(workers), [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}
        assert all(f"-{number} worker 0] hello" in host.text for number, host in enumerate(hosts))
    others = list((tmp_path / "out" / "hosts").iterdir())
    assert len(others) == len(workers) - 1
    for folder in others:
        assert json.loads((folder / "run.json").read_text())["exit"] == "completed"
        assert "hello" in (folder / "logs" / "worker-0.log").read_text()
    alone, together = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "out")
    )
    kept = ("step", "loss", "gradient_norm", "evaluation/loss", "evaluation/accuracy")
    assert [[r.get(key) for key in kept] for r in together] == [[r.get(key) for key in kept] for r in alone]


@pytest.mark.hosts
def test_host_0_names_the_folder_where_nobody_has(tmp_path: Path) -> None:
    job_file(tmp_path, "jobs.make(steps=3)")
    port, hosts = free_port(), list[HostProcess]()

    def is_served() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    try:
        hosts.append(HostProcess(tmp_path, 0, 2, port, ["job.py", "--workers", "1"]))
        until(is_served)  # it has looked at its clock
        now = int(time.time())
        until(lambda: int(time.time()) > now)
        hosts.append(HostProcess(tmp_path, 1, 2, port, ["job.py", "--workers", "1"]))
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
    finally:
        for host in hosts:
            host.signal_all()
            host.process.wait()
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("job-")
    assert len(list((folder / "hosts").iterdir())) == 1
    assert all(f"runs/{folder.name}" in host.text for host in hosts)


@pytest.mark.hosts
def test_pipes_within_hosts(tmp_path: Path) -> None:
    job_file(tmp_path, text := "jobs.make(jobs.Deep, optimizer=jobs.sgd, microbatches=8, batch_size=40, steps=6)")
    expected = hash_of(text)
    with running(tmp_path, (2, 2), "--layout", "pipeline=2") as hosts:
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}


@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGKILL, (1, 1)), pytest.param(signal.SIGSTOP, (1, 1, 2), marks=pytest.mark.hosts)],
    ids=["killed", "hung"],
)
def test_a_lost_host_costs_nothing(tmp_path: Path, number: int, workers: tuple[int, ...]) -> None:
    job_file(tmp_path, HELD)
    expected = hash_of(HELD)
    (tmp_path / "held").write_text("60")
    with running(tmp_path, workers, "--checkpoint-every", "5") as hosts:
        until(lambda: hosts[0].steps() > 5)
        lost = hosts[1]
        lost.signal_all(number)
        (tmp_path / "held").unlink()
        others = [host for host in hosts if host is not lost]
        assert [host.wait() for host in others] == [0] * len(others), [host.text for host in hosts]
        assert {host.parameters for host in others} == {expected}
        assert hosts[0].text.count("with their workers") == 2
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 81))


@pytest.mark.hosts
def test_a_slow_host_is_no_lost_one(tmp_path: Path) -> None:
    # The last microbatch, which the other host waits for, comes later than a silent host would be lost.
    job_file(tmp_path, text := HELD.replace("80", "3"))
    expected = hash_of(text)
    (tmp_path / "held").write_text("1")
    seconds = scaled(2)
    with running(tmp_path, (1, 1), "--host-timeout", seconds, "--checkpoint-every", "1") as hosts:
        until(lambda: hosts[0].steps() >= 1)
        begun = time.time()
        until(lambda: time.time() > begun + 2 * seconds, "a silent host would be lost")
        (tmp_path / "held").unlink()
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}
        assert hosts[0].text.count("with their workers") == 1


def killable_workers(host: HostProcess) -> list[psutil.Process]:
    found = []
    for process in host.tree():
        with suppress(psutil.NoSuchProcess):
            found += [process] if process.name() == "unisono-worker" else []
    return found


@pytest.mark.hosts
def test_workers_that_die_while_sums_are_on_their_way_change_nothing(tmp_path: Path) -> None:
    job_file(tmp_path, HELD)
    expected = hash_of(HELD)
    held = tmp_path / "held"
    held.write_text("8")
    with running(tmp_path, (2, 2), "--checkpoint-every", "8") as hosts:
        for kill in range(1, 9):
            until(lambda kill=kill: hosts[0].steps() >= 8 * kill)
            workers = until(lambda kill=kill: (found := killable_workers(hosts[kill % 2]))[1:] and found)
            held.write_text(str(8 * kill + 8))
            workers[kill // 2 % 2].kill()
        held.unlink()
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}
        assert hosts[0].text.count("with their workers") == 1


TWICE = """
from torch.utils.checkpoint import checkpoint

class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(jobs.FEATURES, 33)
        self.shared = torch.nn.Linear(33, 33)
        self.last = torch.nn.Linear(33, jobs.CLASSES)

    def forward(self, inputs):
        hidden = checkpoint(self.shared, self.first(inputs), use_reentrant=True)
        return self.last(self.shared(hidden))
"""


@pytest.mark.hosts
def test_a_gradient_that_comes_in_two_parts_is_never_used_by_halves(tmp_path: Path) -> None:
    job_file(tmp_path, "jobs.make(Twice, microbatches=8, batch_size=40, steps=9)")
    (tmp_path / "job.py").write_text((tmp_path / "job.py").read_text() + TWICE)
    expected = hash_alone(tmp_path)
    with running(tmp_path, (1, 1)) as hosts:
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}
        assert "a gradient came in two parts" in hosts[0].text + hosts[1].text


@pytest.mark.hosts
def test_without_host_0_the_others_stop_and_the_run_resumes(tmp_path: Path) -> None:
    job_file(tmp_path, HELD)
    expected = hash_of(HELD)
    (tmp_path / "held").write_text("70")
    with running(tmp_path, (1, 1), "--checkpoint-every", "20") as hosts:
        until(lambda: (tmp_path / "out" / "checkpoints" / "step-00000060").exists())
        hosts[0].signal_all()
        assert hosts[1].wait() == 1
        assert "Go on: start it again on all hosts with --resume" in hosts[1].text
    (tmp_path / "held").unlink()
    with running(tmp_path, (1, 2), "--resume", "auto") as hosts:
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}


@pytest.mark.hosts
@pytest.mark.parametrize("optimizer", ["jobs.adamw", *OWN])
def test_a_host_that_comes_later_joins(tmp_path: Path, optimizer: str) -> None:
    job_file(tmp_path, text := HELD.replace("jobs.adamw", optimizer))
    expected = hash_of(text)
    (tmp_path / "held").write_text("60")
    with running(tmp_path, (1, 1), "--checkpoint-every", "5") as hosts:
        until(lambda: hosts[0].steps() > 10)
        arguments = ["job.py", "--workers", "2", "--out", "out", *PATIENT]
        late = HostProcess(tmp_path, 2, 3, hosts[0].port, arguments)
        hosts.append(late)
        until(lambda: "3 hosts with their workers" in late.text)
        (tmp_path / "held").unlink()
        assert [host.wait() for host in hosts] == [0, 0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}
        assert "3 hosts with their workers" in late.text


@pytest.mark.hosts
def test_a_failure_is_told_on_every_host(tmp_path: Path) -> None:
    job_file(tmp_path, "jobs.make(steps=3, loss=lambda outputs, targets: 1 / 0 if outputs[0, 0] > 1e9 else wrong)")
    with running(tmp_path, (1, 1)) as hosts:
        assert [host.wait() for host in hosts] == [1, 1]
        for host in hosts:
            assert "NameError: name 'wrong' is not defined" in host.text.splitlines()[-1]


def test_hosts_with_other_data_are_named(tmp_path: Path) -> None:
    job_file(tmp_path, "jobs.make(steps=3, data=jobs.dataset(seed=int(__import__('os').environ['RANK'])))")
    with running(tmp_path, (1, 1)) as hosts:
        assert [host.wait() for host in hosts] == [2, 2]
        for host in hosts:
            assert "hosts must have the same data" in host.text


@pytest.mark.hosts
def test_every_host_needs_a_microbatch(tmp_path: Path) -> None:
    job_file(tmp_path, "jobs.make(steps=3, microbatches=1)")
    with running(tmp_path, (1, 1)) as hosts:
        assert [host.wait() for host in hosts] == [2, 2]
        assert "every host needs a microbatch; a batch of this job has 1" in hosts[1].text


@pytest.mark.hosts
def test_an_interrupt_stops_all_hosts_at_the_same_step(tmp_path: Path) -> None:
    job_file(tmp_path, LONG)
    with running(tmp_path, (1, 1)) as hosts:
        until(lambda: hosts[0].steps() > 5)
        hosts[1].process.send_signal(signal.SIGINT)
        assert [host.wait() for host in hosts] == [130, 130]
        assert hosts[0].parameters == hosts[1].parameters
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (manifest["exit"], manifest["reason"]) == ("interrupted", "signal")


@pytest.mark.hosts
def test_a_hosts_workers_are_resized_and_a_pause_is_refused(tmp_path: Path) -> None:
    job_file(tmp_path, HELD)
    expected = hash_of(HELD)
    (tmp_path / "held").write_text("60")
    with running(tmp_path, (1, 1), "--checkpoint-every", "5") as hosts:
        until(lambda: hosts[0].steps() > 5)
        (other,) = (tmp_path / "out" / "hosts").iterdir()
        for host, folder, workers in ((hosts[0], tmp_path / "out", 2), (hosts[1], other, 3)):
            assert control.resize(folder, workers) == workers
            until(lambda host=host, workers=workers: len(killable_workers(host)) == workers)
            with pytest.raises(UsageError, match="a run over several hosts is not paused"):
                control.resize(folder, 0)
        (tmp_path / "held").unlink()
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}
