"""Runs of tests take copies of one process that has imported the framework: else each would import it for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

import jobs
import warm


def is_copy() -> bool:
    """Whether a run would have a copy now."""
    with warm.host_for(jobs.make()) as host:
        return "libtorch" in Path(f"/proc/{host.process}/maps").read_text()


def test_a_run_takes_a_copy_unless_its_test_changes_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_copy()
    monkeypatch.setenv("OF_THIS_TEST", "1")
    assert not is_copy()
    warm.begin()  # libraries set variables too: the next test finds them there
    assert is_copy()
