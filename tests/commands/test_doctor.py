"""`unisono doctor` as a person runs it, here and where something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unisono.commands.doctor import check_launcher
from waiting import limit


def doctor(
    folder: Path, before: str = "", name: str = "doctor", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run it by a shell, after what the shell is to do before."""
    return subprocess.run(
        ["sh", "-c", f"{before}exec {sys.executable} -m unisono {name}"], capture_output=True, text=True, cwd=folder,
        timeout=limit(), env={**os.environ, **environment},
    )  # fmt: skip


def test_doctor(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines[:-2]} <= {"ok", "warning", "->"}, done.stdout
    assert any("cores" in line and "usable" in line for line in lines)
    assert lines[-1].startswith("A run would start")
    assert all(line.isascii() and line == line.rstrip() for line in lines)


def test_devices(tmp_path: Path) -> None:
    done = doctor(tmp_path, name="devices")
    assert (done.returncode, done.stderr) == (0, "")
    told = [line.split(maxsplit=2)[1] for line in done.stdout.splitlines() if "->" not in line]
    assert told[:4] == ["cores", "CPU", "accelerators", "memory"]
    assert told[-1] == "torch"


@pytest.mark.parametrize(("before", "environment", "name", "mend"), [
    ("ulimit -n 24; ", {}, "open files", "ulimit -n 1024"),
    ("", {"RANK": "1", "WORLD_SIZE": "2"}, "launcher", "MASTER_ADDR"),
])  # fmt: skip
def test_what_would_stop_a_run_is_told_with_its_mend(
    before: str, environment: dict[str, str], name: str, mend: str, tmp_path: Path
) -> None:
    done = doctor(tmp_path, before, **environment)
    assert done.returncode == 1, done.stdout
    lines = done.stdout.splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("wrong"))
    assert name in lines[at]
    assert lines[at + 1].lstrip().startswith("-> ")
    assert mend in lines[at + 1]
    assert lines[-1] == "A run would not start: 1 wrong."


def test_a_pipe_that_takes_ascii_only(tmp_path: Path) -> None:
    folder = tmp_path / "größe"
    folder.mkdir()
    done = doctor(folder, PYTHONIOENCODING="ascii", OMP_PROC_BIND="ja→nein")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"gr\xf6\xdfe" in done.stdout
    assert r"OMP_PROC_BIND=ja\u2192nein" in done.stdout


def test_a_place_among_hosts_is_told() -> None:
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
    found = check_launcher(told, "b")
    assert (found.state, found.found) == ("ok", "the launcher: host 1 of 2, which meet at node0:29500")
