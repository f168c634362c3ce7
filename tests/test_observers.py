"""Observers run beside training: in order, in this process, and at nobody's cost."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

import jobs
import unisono
from unisono.runs import recorder


class Seeing:
    """An observer that no pickle can hold."""

    def __init__(self) -> None:
        self.lock, self.steps, self.processes = threading.Lock(), list[int](), set[int]()

    def __call__(self, record: dict[str, Any]) -> None:
        with self.lock:
            self.processes.add(os.getpid())
            self.steps.append(record.pop("step"))


def raises(record: dict[str, Any]) -> None:
    raise ValueError(f"not at step {record['step']}")


def leaves(record: dict[str, Any]) -> None:
    raise SystemExit(3)


def hangs(record: dict[str, Any]) -> None:
    threading.Event().wait()


@pytest.mark.parametrize("debug", [False, True])
def test_one_that_fails_costs_itself_and_is_said_once(
    tmp_path: Path, debug: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    seeing = Seeing()
    job = jobs.make(steps=4, observers=[raises, seeing, *([] if debug else [leaves])])
    run = unisono.train(job, out=tmp_path / "run", debug=debug, **({} if debug else {"workers": 2}))
    shown = capsys.readouterr().out
    assert (run.exit_status, run.manifest["steps_done"], len(run.history)) == (0, 4, 4)
    assert (seeing.steps, seeing.processes) == ([1, 2, 3, 4], {os.getpid()})
    assert shown.count("observer 'raises': Traceback") == shown.count("ValueError: not at step 1") == 1
    assert "in raises" in shown
    assert "not at step 2" not in shown
    assert "observer 'raises': failed 4 times in all" in shown
    assert debug or "\nSystemExit: 3; training goes on" in shown


def test_one_that_hangs_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "PATIENCE_SECONDS", 3.0)
    seeing = Seeing()
    run = unisono.train(jobs.make(steps=4, observers=[hangs, seeing]), out=tmp_path / "run", workers=1)
    assert (run.exit_status, len(run.history), seeing.steps) == (0, 4, [1, 2, 3, 4])
    assert "observer 'hangs': 4 things dropped (no answer in 3 s)" in capsys.readouterr().out
