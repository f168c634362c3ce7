"""Processes that tests start import the Unisono that is tested."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import unisono
from hosts.host_processes import HostProcess, hash_alone
from paths import PYTHONPATH
from waiting import limit

FIND = [sys.executable, "-S", "-c", "import importlib.util; print(importlib.util.find_spec('unisono').origin)"]
"""-S: without what is installed."""


def test_the_path_leads_to_this_unisono() -> None:
    done = subprocess.run(FIND, capture_output=True, text=True, timeout=limit(), env={"PYTHONPATH": PYTHONPATH})
    assert Path(done.stdout.strip()) == Path(unisono.__file__), done.stderr


def test_hosts_go_that_way(tmp_path: Path) -> None:
    host = HostProcess(tmp_path, 0, 1, 1, [], command=FIND)
    assert host.wait() == 0
    assert Path(host.text.strip()) == Path(unisono.__file__)


def test_what_they_are_compared_with_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(command: list[str], env: dict[str, str], **rest: Any) -> subprocess.CompletedProcess[str]:
        seen.append(env["PYTHONPATH"].split(os.pathsep))
        return subprocess.CompletedProcess(command, 0, f"parameters {0:064}", "")

    seen: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", found)
    hash_alone(tmp_path)
    assert str(Path(unisono.__file__).parent.parent) in seen[0]
