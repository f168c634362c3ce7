"""Host 0 is lost: where the store lives elsewhere and another host sees the run folder, that one goes on."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hosts.host_processes import PATIENT, HostProcess, free_port
from hosts.launched import environment
from unisono.checkpoint import store
from waiting import scaled, until

pytestmark = pytest.mark.hosts
TRAIN = ["job.py", "--workers", "1", "--host-timeout", f"{scaled(3):.0f}", *PATIENT]


@contextmanager
def store_elsewhere(folder: Path) -> Iterator[int]:
    """`unisono store` on a free port."""
    port, output = free_port(), folder / "store.txt"
    with output.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "unisono", "store", f"127.0.0.1:{port}"], env=environment(),
            stdout=written, stderr=written, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        until(lambda: "hosts meet at" in output.read_text(), "the store is served")
        yield port
    finally:
        process.kill()
        process.wait()


class Hosts:
    """Some hosts that meet at a store elsewhere.

    Args:
        folder: where the job file is.
        port: of the store.
        count: how many.
        shared: whether all see one run folder.
        every: steps between checkpoints.
    """

    def __init__(self, folder: Path, port: int, count: int = 3, shared: bool = True, every: int = 3) -> None:
        self.folder, self._port, self._count, self._every = folder, port, count, every
        self._outs = ["out"] * count if shared else [f"out{number}" for number in range(count)]
        self.all = [self.start(number) for number in range(count)]
        self._killed: list[HostProcess] = []

    def start(self, number: int) -> HostProcess:
        arguments = [
            *TRAIN,
            "--checkpoint-every",
            self._every,
            "--out",
            self._outs[number],
            "--store",
            f"127.0.0.1:{self._port}",
        ]
        return HostProcess(self.folder, number, self._count, 1, arguments)

    def lose(self, number: int, how: int = signal.SIGKILL) -> None:
        self.all[number].signal_all(how)
        self._killed.append(self.all[number])

    def again(self, number: int) -> None:
        """As a launcher does whose agent lives."""
        self.all[number] = self.start(number)

    def said(self, number: int, text: str, times: int = 1) -> None:
        until(lambda: self.all[number].text.count(text) >= times, f"host {number} says {text!r}")

    def steps(self) -> int:
        return max(records(self.folder / self._outs[0]), default=0)

    def end(self) -> None:
        for host in (*self.all, *self._killed):
            host.signal_all(signal.SIGCONT)
            host.signal_all()
            host.process.wait()


def records(folder: Path) -> list[int]:
    """The steps that are in the records."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


@contextmanager
def running(folder: Path, count: int = 3, shared: bool = True, every: int = 3) -> Iterator[Hosts]:
    with store_elsewhere(folder) as port:
        hosts = Hosts(folder, port, count, shared, every)
        try:
            yield hosts
        finally:
            hosts.end()


def check(hosts: Hosts, expected: str, *left: int) -> None:
    """These hosts end well, with the bits of one host; the folder is as if nothing had been."""
    for number in left:
        assert hosts.all[number].wait() == 0, hosts.all[number].text
        assert hosts.all[number].parameters == expected
    folder = hosts.folder / "out"
    assert records(folder) == list(range(1, 201))
    manifest = json.loads((folder / "run.json").read_text())
    assert (manifest["exit"], manifest["parameters_sha256"]) == ("completed", expected)
    assert store.steps(folder / "checkpoints")[-1] == 200
    assert all(re.fullmatch(r"step-\d{8}", path.name) for path in (folder / "checkpoints").iterdir())


@pytest.mark.few("7")
@pytest.mark.parametrize("step", ["1", "7", "60"])
def test_the_next_host_keeps_the_run_folder(tmp_path: Path, expected: str, step: str) -> None:
    (tmp_path / "held").write_text(step)
    with running(tmp_path) as hosts:
        until(lambda: hosts.steps() >= 1)
        hosts.lose(0)
        until(lambda: any("keeps the run folder" in host.text for host in hosts.all[1:]))
        (tmp_path / "held").unlink()
        check(hosts, expected, 1, 2)


def test_one_after_the_other_is_lost_and_those_that_come_again_take_part(tmp_path: Path, expected: str) -> None:
    with running(tmp_path) as hosts:
        until(lambda: hosts.steps() >= 4)
        hosts.lose(0)
        until(lambda: any("keeps the run folder" in host.text for host in hosts.all[1:]))
        first, other = (1, 2) if "keeps the run folder" in hosts.all[1].text else (2, 1)
        hosts.again(0)
        hosts.said(first, "3 hosts with their workers", 2)
        hosts.lose(first)
        until(lambda: any("keeps the run folder" in hosts.all[number].text for number in (0, other)))
        (tmp_path / "held").unlink()
        check(hosts, expected, 0, other)


@pytest.mark.few("0")
@pytest.mark.parametrize("seed", range(3))
def test_at_any_instant(tmp_path: Path, expected: str, seed: int) -> None:
    """A checkpoint is written with each step, so that some are lost in the middle of one."""
    draw = random.Random(seed)
    (tmp_path / "held").unlink()
    with running(tmp_path, 2, every=1) as hosts:
        step = draw.randrange(1, 150)
        until(lambda: hosts.steps() >= step)
        hosts.lose(0)
        check(hosts, expected, 1)


def test_who_was_only_frozen_writes_nothing_more_and_ends(tmp_path: Path, expected: str) -> None:
    with running(tmp_path) as hosts:
        until(lambda: hosts.steps() >= 4)
        frozen = hosts.all[0]
        hosts.lose(0, signal.SIGSTOP)
        until(lambda: any("keeps the run folder" in host.text for host in hosts.all[1:]))
        frozen.signal_all(signal.SIGCONT)
        assert frozen.wait() == 1
        assert "the others went on without it" in frozen.text.splitlines()[-1]
        (tmp_path / "held").unlink()
        check(hosts, expected, 1, 2)


def test_where_no_other_host_sees_the_folder_the_last_line_says_what_to_do(tmp_path: Path, expected: str) -> None:
    with running(tmp_path, shared=False) as hosts:
        until(lambda: hosts.steps() >= 4)
        hosts.lose(0)
        for host in hosts.all[1:]:
            assert host.wait() == 1
            assert "--resume" in host.text.splitlines()[-1], host.text


def test_without_the_store_all_stop_and_the_run_resumes(tmp_path: Path, expected: str) -> None:
    with store_elsewhere(tmp_path) as port:
        hosts = Hosts(tmp_path, port, 2)
        try:
            until(lambda: hosts.steps() >= 4)
        except BaseException:
            hosts.end()
            raise
    try:
        for host, last in zip(hosts.all, ("a checkpoint after step", "--resume"), strict=True):
            assert host.wait() == 1
            assert last in host.text.splitlines()[-1], host.text
        assert list((tmp_path / "out" / "checkpoints").glob("step-*"))
    finally:
        hosts.end()
