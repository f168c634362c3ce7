"""Once a run has begun it comes to rest and reports, whatever fails in the process that supervises it."""

from __future__ import annotations

from typing import Any

import pytest

import jobs
from faults import run
from unisono.runtime.supervisor.crew_control import CrewControl


def wrong(outputs: Any, targets: Any) -> Any:
    raise ValueError("a loss of the job's own")


def broken(crew: CrewControl) -> bool:
    raise RuntimeError("no way to end them")


def test_what_fails_while_it_comes_to_rest_does_not_keep_it_from_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrewControl, "end_workers", broken)
    outcome, _, messages = run(jobs.make(loss=wrong), 2)
    assert outcome.failure is not None
    assert "ValueError in the job's code" in outcome.failure.message
    assert any("while the run came to rest: RuntimeError" in text for text in messages)
