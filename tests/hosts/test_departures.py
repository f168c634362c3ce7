"""Hosts that are told to go: they leave in good order and the others go on, or the run ends; with the same bits."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from hosts.host_processes import PATIENT, HostProcess, free_port, hash_alone, hash_of, job_file, running
from waiting import scaled, until

pytestmark = pytest.mark.hosts
HELD = """jobs.make(jobs.Wild, optimizer=jobs.adamw, microbatches=8, batch_size=40, steps=80, order="sequential",
        data=jobs.Held(80, 40, "held"), {more})"""
"""It goes on only as far as the file `held` says, while there is one."""
EVALUATED = """evaluation=jobs.dataset(90, 2), evaluate_every=1, metrics={'accuracy': jobs.accuracy},
        best=('min', 'loss'), patience=3"""
NEVER = ("--host-timeout", "1000")
"""Nobody is waited for until he is lost: that would last as long as this."""


@pytest.fixture
def expected(tmp_path: Path) -> str:
    """The hash of a job, put into the test's folder, that stops at step 60 until the file `held` is gone."""
    job_file(tmp_path, text := HELD.format(more=""))
    (tmp_path / "held").write_text("60")
    return hash_of(text)


def steps_of(folder: Path) -> list[int]:
    lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def manifest(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "run.json").read_text())
    return found


def resumed(folder: Path, workers: Sequence[int]) -> set[str]:
    """The hashes after the run has been resumed on so many hosts."""
    (folder / "held").unlink(missing_ok=True)
    with running(folder, workers, environment={"TORCHELASTIC_RESTART_COUNT": "1"}) as hosts:
        assert [host.wait() for host in hosts] == [0] * len(hosts), [host.text for host in hosts]
        return {host.parameters for host in hosts}


@pytest.mark.few("15")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_host_that_is_told_to_go_leaves_and_the_others_go_on(tmp_path: Path, expected: str, number: int) -> None:
    with running(tmp_path, (1, 1, 1), "--checkpoint-every", "5", *NEVER) as hosts:
        until(lambda: hosts[0].steps() > 5)
        hosts[1].process.send_signal(number)
        until(lambda: "was told to go" in hosts[1].text)
        (tmp_path / "held").unlink()
        assert [host.wait() for host in hosts] == [0, 0, 0], [host.text for host in hosts]
        assert {host.parameters for host in (hosts[0], hosts[2])} == {expected}
        for host in hosts:
            assert f"was told to go ({signal.Signals(number).name})" in host.text
            assert host is hosts[1] or "2 hosts go on" in host.text
        assert not any("cannot be reached" in host.text for host in hosts)
        assert not re.search(r"step \d+/", hosts[1].text + hosts[2].text), "progress is host 0's"
    assert steps_of(tmp_path) == list(range(1, 81))
    gone = next((tmp_path / "out" / "hosts").glob("*-1"))
    assert (manifest(gone)["exit"], manifest(gone)["signal"]) == ("left", number)


@pytest.mark.few("host 0", "all")
@pytest.mark.parametrize(
    ("told", "options", "number", "statuses"),
    [
        ([0], (), signal.SIGTERM, {143}),
        ([1], ("--on-signal", "stop"), signal.SIGTERM, {143}),
        ([1], (), signal.SIGINT, {130}),
        ([0, 1, 2], (), signal.SIGTERM, {0, 143}),
        ([2, 1, 0], (), signal.SIGHUP, {0, 129}),
    ],
    ids=["host 0", "stop", "Ctrl-C", "all", "all, host 0 last"],
)
def test_the_run_ends_with_a_checkpoint(
    tmp_path: Path, expected: str, told: list[int], options: Sequence[str], number: int, statuses: set[int]
) -> None:
    with running(tmp_path, (1, 1, 1), *options, *NEVER) as hosts:
        until(lambda: hosts[0].steps() > 5)
        for host in told:
            hosts[host].process.send_signal(number)
        found = [host.wait() for host in hosts]
        assert set(found) <= statuses, [host.text for host in hosts]
        assert found[0] == 128 + number
        name = re.search(rf"host (\S+-{told[-1]})", hosts[told[-1]].text)
        assert name
        for host in hosts:
            assert f"was told to go ({signal.Signals(number).name})" in host.text
            assert told[1:] or "the run ends after the step at hand, with a checkpoint" in host.text
    ended = manifest(tmp_path / "out")
    assert (ended["exit"], ended["reason"], ended["signal"]) == ("interrupted", "signal", number)
    assert resumed(tmp_path, (1, 2)) == {expected}


def test_a_host_leaves_while_all_evaluate_and_write(tmp_path: Path) -> None:
    job_file(tmp_path, HELD.format(more=EVALUATED))
    expected = hash_alone(tmp_path)
    (tmp_path / "held").write_text("2")
    with running(tmp_path, (1, 1, 1), "--checkpoint-every", "1", *NEVER) as hosts:
        until(lambda: hosts[0].steps() > 1)
        (tmp_path / "held").unlink()
        hosts[2].process.send_signal(signal.SIGTERM)
        assert [host.wait() for host in hosts] == [0, 0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts[:2]} == {expected}
    alone, together = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "out")
    )
    kept = ("step", "loss", "evaluation/loss", "evaluation/accuracy")
    assert [[r.get(key) for key in kept] for r in together] == [[r.get(key) for key in kept] for r in alone]


@pytest.mark.thorough
def test_two_leave_at_once(tmp_path: Path, expected: str) -> None:
    with running(tmp_path, (1, 2, 1), "--checkpoint-every", "1", *NEVER) as hosts:
        until(lambda: hosts[0].steps() > 5)
        for host in hosts[1:]:
            host.process.send_signal(signal.SIGTERM)
        assert [host.wait() for host in hosts[1:]] == [0, 0], [host.text for host in hosts]
        (tmp_path / "held").unlink()
        assert hosts[0].wait() == 0, hosts[0].text
        assert hosts[0].parameters == expected
        assert hosts[0].text.count("was told to go") == 2
        assert "1 host goes on" in hosts[0].text
    assert steps_of(tmp_path) == list(range(1, 81))


def test_one_that_is_killed_while_it_leaves_costs_nothing_either(tmp_path: Path, expected: str) -> None:
    with running(tmp_path, (1, 1, 1), "--checkpoint-every", "5", *NEVER) as hosts:
        until(lambda: hosts[0].steps() > 5)
        hosts[2].process.send_signal(signal.SIGTERM)
        until(lambda: "was told to go" in hosts[2].text)
        hosts[2].signal_all()
        (tmp_path / "held").unlink()
        assert [host.wait() for host in hosts[:2]] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts[:2]} == {expected}
    assert steps_of(tmp_path) == list(range(1, 81))


def test_a_second_signal_ends_it_at_once_and_the_others_go_on(tmp_path: Path, expected: str) -> None:
    with running(tmp_path, (1, 1), "--checkpoint-every", "5") as hosts:
        until(lambda: hosts[0].steps() > 5)
        hosts[1].process.send_signal(signal.SIGTERM)
        until(lambda: "was told to go" in hosts[1].text or hosts[1].process.poll() is not None)
        hosts[1].process.send_signal(signal.SIGTERM)
        assert hosts[1].wait() in (0, 143)
        (tmp_path / "held").unlink()
        assert hosts[0].wait() == 0, hosts[0].text
        assert hosts[0].parameters == expected


def test_on_kubernetes_another_host_is_to_come(tmp_path: Path, expected: str) -> None:
    with running(tmp_path, (1, 1), environment={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) as hosts:
        until(lambda: hosts[0].steps() > 5)
        hosts[1].process.send_signal(signal.SIGTERM)
        assert hosts[1].wait() == 143
        hosts.append(HostProcess(tmp_path, 1, 2, hosts[0].port, ["job.py", "--workers", "1", "--out", "out", *PATIENT]))
        until(lambda: "one of 2 hosts with their workers" in hosts[2].text.split("interrupted after")[1])
        (tmp_path / "held").unlink()
        assert [hosts[0].wait(), hosts[2].wait()] == [0, 0], [host.text for host in hosts]
        assert {hosts[0].parameters, hosts[2].parameters} == {expected}


def test_the_data_host_ends_the_run(tmp_path: Path, expected: str) -> None:
    with running(tmp_path, (1, 1, 1), "--data-host", "1", *NEVER) as hosts:
        until(lambda: hosts[0].steps() > 5)
        hosts[1].process.send_signal(signal.SIGTERM)
        (tmp_path / "held").unlink()
        assert [host.wait() for host in hosts] == [143] * 3, [host.text for host in hosts]
        for host in hosts:
            assert "which has the data, was told to go (SIGTERM): the run ends" in host.text
    assert resumed(tmp_path, (1, 1)) == {expected}


SLOW = """
import os, time
from waiting import until
from pathlib import Path

def slow():
    until(lambda: os.environ.get("RANK") != "2" or Path("ready").exists())
    return jobs.Wild()
"""


@pytest.mark.thorough
def test_a_newcomer_that_is_told_to_go_while_it_gets_ready_disturbs_nobody(tmp_path: Path) -> None:
    job_file(tmp_path, HELD.format(more="").replace("jobs.Wild,", "slow,"))
    (tmp_path / "job.py").write_text((tmp_path / "job.py").read_text() + SLOW)
    expected = hash_alone(tmp_path)
    (tmp_path / "held").write_text("60")
    with running(tmp_path, (1, 1), "--checkpoint-every", "5", *NEVER) as hosts:
        until(lambda: hosts[0].steps() > 5)
        arguments = ["job.py", "--workers", "1", "--out", "out", *PATIENT, *NEVER]
        late = HostProcess(tmp_path, 2, 3, hosts[0].port, arguments)
        hosts.append(late)
        until(lambda: "still in" in late.text)
        late.process.send_signal(signal.SIGTERM)
        assert late.wait() == 0, late.text
        (tmp_path / "held").unlink()
        assert [host.wait() for host in hosts[:2]] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts[:2]} == {expected}


def test_with_too_few_hosts_the_others_wait_for_another(tmp_path: Path, expected: str) -> None:
    with running(tmp_path, (1, 1), "--checkpoint-every", "5", "--min-hosts", "2", *NEVER) as hosts:
        until(lambda: hosts[0].steps() > 5)
        hosts[1].process.send_signal(signal.SIGTERM)
        (tmp_path / "held").unlink()
        until(lambda: "waiting for hosts (2 wanted)" in hosts[0].text)
        steps = hosts[0].steps()
        assert steps < 80
        arguments = ["job.py", "--workers", "2", "--out", "out", *PATIENT, *NEVER]
        hosts.append(HostProcess(tmp_path, 2, 3, hosts[0].port, arguments))
        assert [host.wait() for host in hosts] == [0, 0, 0], [host.text for host in hosts]
        assert {host.parameters for host in (hosts[0], hosts[2])} == {expected}
    assert steps_of(tmp_path) == list(range(1, 81))


@pytest.mark.thorough
def test_who_waits_answers_ctrl_c_with_a_checkpoint(tmp_path: Path, expected: str) -> None:
    with running(tmp_path, (1, 1, 1), "--checkpoint-every", "5", "--min-hosts", "3", *NEVER) as hosts:
        until(lambda: hosts[0].steps() > 5)
        hosts[1].process.send_signal(signal.SIGTERM)
        assert hosts[1].wait() == 0
        (tmp_path / "held").unlink()
        until(lambda: "waiting for hosts (3 wanted)" in hosts[2].text)
        hosts[0].process.send_signal(signal.SIGINT)
        assert [hosts[0].wait(), hosts[2].wait()] == [130, 130], [host.text for host in hosts]
    assert 0 < int(str(manifest(tmp_path / "out")["steps_done"])) < 80
    assert resumed(tmp_path, (2, 1)) == {expected}


def test_max_time_ends_the_waiting(tmp_path: Path, expected: str) -> None:
    port = free_port()
    arguments = ["job.py", "--workers", "1", "--out", "out", *PATIENT, "--max-time", f"{scaled(30):.0f}s", *NEVER]
    host = HostProcess(tmp_path, 0, 2, port, arguments)
    try:
        assert host.wait() == 143, host.text
        assert "waiting for hosts (2 wanted)" in host.text
        assert "not yet there: 1" in host.text
    finally:
        host.signal_all()
        host.process.wait()
    ended = manifest(tmp_path / "out")
    assert (ended["exit"], ended["reason"]) == ("interrupted", "max-time")
    assert resumed(tmp_path, (1, 1)) == {expected}
