"""The same command again on several hosts: host 0 decides for all, also where they share no disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import jobs
import unisono
from hosts.host_processes import PATIENT, HostProcess, free_port, hash_alone, job_file
from hosts.launched import WAITING
from unisono.checkpoint import store
from unisono.errors import JobError
from unisono.hosts.meeting import Meeting
from waiting import until

pytestmark = pytest.mark.hosts


@contextmanager
def again(folders: Sequence[Path]) -> Iterator[list[HostProcess]]:
    """The same command once more, each host in a folder of its own; what is left of it is killed in the end."""
    port = free_port()
    arguments = ["job.py", "--workers", "1", "--out", "out", "--resume", "auto", "--checkpoint-every", "20", *PATIENT]
    hosts = [HostProcess(folder, number, len(folders), port, arguments) for number, folder in enumerate(folders)]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.signal_all()
            host.process.wait()


def content(folder: Path) -> dict[Path, bytes]:
    """What files hold that results are in; run.json names the hosts' meeting besides."""
    files = {path: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    manifest = json.loads(files.pop(folder / "run.json"))
    return {**files, folder / "run.json": json.dumps({**manifest, "key": ""}).encode()}


def test_host_0_decides_for_all(tmp_path: Path) -> None:
    held, folders = tmp_path / "held", [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        job_file(folder, WAITING.replace('"held"', repr(str(held))).replace("200", "60"))
    expected = hash_alone(folders[0])
    held.write_text("3")
    with again(folders) as hosts:  # killed before its first checkpoint
        until(lambda: hosts[0].steps() == 3)
    held.write_text("25")
    with again(folders) as hosts:  # killed after it
        until(lambda: hosts[0].steps() == 25)
        until(store.at(folders[0] / "out" / "checkpoints", 20).exists)
        assert "it begins anew; its records are in out/abandoned-1" in hosts[0].text
    held.unlink()
    (other,) = (folders[1] / "out" / "hosts").iterdir()
    assert (other / "abandoned-1" / "logs").exists()
    with again(folders) as hosts:
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}
        assert "going on after step 20 of 60" in hosts[0].text
        assert hosts[0].steps() == 60
    before = content(folders[0] / "out")
    assert before[folders[0] / "out" / "metrics.jsonl"].count(b"\n") == 60
    with again(folders) as hosts:
        assert [host.wait() for host in hosts] == [0, 0], [host.text for host in hosts]
        assert {host.parameters for host in hosts} == {expected}
        assert "finished: after step 60 nothing is left to do" in hosts[0].text
    assert content(folders[0] / "out") == before
    assert not (other / "abandoned-2").exists()


def test_who_comes_when_host_0_has_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(meeting: Meeting, say: object) -> bool:
        raise JobError("nobody is there")

    out = tmp_path / "out"
    whole = unisono.train(jobs.make(steps=2), out=out, debug=True)
    monkeypatch.setattr(Meeting, "come", nobody)
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    run = unisono.train(jobs.make(steps=2), out=out, resume="auto", workers=1)
    assert (run.exit_status, run.parameters_sha256) == (0, whole.parameters_sha256)
    assert "finished: host 0 is not there any more" in capsys.readouterr().out
    (out / "run.json").write_text(json.dumps({**whole.manifest, "exit": "interrupted"}))
    with pytest.raises(JobError, match="nobody is there"):
        unisono.train(jobs.make(steps=2), out=out, resume="auto", workers=1)
