"""A host that cannot begin says so to the others, which end at once with its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from hosts.host_processes import PATIENT, HostProcess, free_port, job_file, running
from waiting import scaled, until


def ended(hosts: list[HostProcess], statuses: tuple[int, ...], text: str) -> None:
    """Whether all have ended so, each with this text in its last line."""
    assert tuple(host.wait() for host in hosts) == statuses, [host.text for host in hosts]
    for host in hosts:
        assert text in host.text.splitlines()[-1], host.text


def test_a_folder_that_holds_a_run_ends_all(tmp_path: Path) -> None:
    job_file(tmp_path, "jobs.make(steps=3)")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{}")
    with running(tmp_path, (1, 1)) as hosts:
        ended(hosts, (2, 2), "an out folder holds one run; out already holds one")


@pytest.mark.hosts
@pytest.mark.parametrize("wrong", [0, 1])
@pytest.mark.parametrize(("text", "status", "says"), [
    ("undefined_name", 1, "NameError: name 'undefined_name' is not defined"),
    ("jobs.make(batch_size=0)", 2, "batch_size must be"),
])  # fmt: skip
def test_a_job_that_is_wrong_on_one_host_ends_all(
    tmp_path: Path, wrong: int, text: str, status: int, says: str
) -> None:
    choice = f"{text} if __import__('os').environ['RANK'] == '{wrong}' else jobs.make(steps=3)"
    job_file(tmp_path, choice)
    with running(tmp_path, (1, 1, 1)) as hosts:
        ended(hosts, (status,) * 3, says)


@pytest.mark.hosts
def test_a_job_file_that_one_host_lacks_ends_all(tmp_path: Path) -> None:
    job_file(tmp_path, "jobs.make(steps=3)")
    with running(tmp_path, (1, 1)) as hosts:
        hosts[1].signal_all()
        hosts[1].process.wait()
        hosts[1].output.write_text("")
        hosts[1] = HostProcess(tmp_path, 1, 2, hosts[0].port, ["other.py", "--workers", "1", "--out", "out"])
        ended(hosts, (2, 2), "other.py")


@pytest.mark.hosts
@pytest.mark.parametrize(("variable", "text"), [
    ("TORCHELASTIC_RUN_ID", "the hosts of another run meet ('unisono/one'), where those of this one ('unisono/two')"),
    ("HAS_NO_NAME", "every host has a number of its own; received 1, and host"),
])  # fmt: skip
def test_two_runs_at_one_port(tmp_path: Path, variable: str, text: str) -> None:
    """The second one's hosts say so, and the first one is not disturbed."""
    port = free_port()
    job_file(tmp_path, """jobs.make(steps=9, microbatches=8, batch_size=40, data=jobs.Held(9, 40, "held"))""")
    (tmp_path / "held").write_text("4")
    hosts = list[HostProcess]()

    def begin(run: str) -> list[HostProcess]:
        folder = tmp_path / run
        folder.mkdir()
        (folder / "job.py").write_text((tmp_path / "job.py").read_text().replace("held", str(tmp_path / "held")))
        arguments = ["job.py", "--workers", "1", "--out", "out", "--host-timeout", scaled(2), *PATIENT]
        hosts.extend(HostProcess(folder, number, 2, port, arguments, {variable: run}) for number in range(2))
        return hosts[-2:]

    try:
        first = begin("one")
        until(lambda: "2 hosts with their workers" in first[1].text)
        second = begin("two")
        assert [host.wait() for host in second] == [1, 1], [host.text for host in second]
        assert f"127.0.0.1:{port}, and cannot: Address already in use" in second[0].text
        assert text in second[1].text
        assert first[0].text.count("with their workers") == 1
        (tmp_path / "held").unlink()
        assert [host.wait() for host in first] == [0, 0], [host.text for host in first]
    finally:
        for host in hosts:
            host.signal_all()
            host.process.wait()
