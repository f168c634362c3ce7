"""Runs that nobody names have folders of their own, however many start in one second."""

from __future__ import annotations

import importlib.util
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Self

import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed in this environment", allow_module_level=True)

import jobs
import unisono
from unisono.observe.run_folder import fresh
from unisono.runs import opening


class Noon(datetime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2030, 1, 1, 12, tzinfo=tz)


def test_a_fresh_folder_is_nobody_elses(tmp_path: Path) -> None:
    names = [fresh(tmp_path / "runs" / "job-1").name for _ in range(3)]
    assert names == ["job-1", "job-1-2", "job-1-3"]
    (tmp_path / "file").touch()
    assert fresh(tmp_path / "file" / "job") == tmp_path / "file" / "job", "whoever writes there says what is wrong"


def test_runs_of_one_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(opening, "datetime", Noon)
    folders = [unisono.train(jobs.make(steps=1), debug=True).directory.name for _ in range(2)]
    assert folders == ["job-20300101-120000", "job-20300101-120000-2"]
