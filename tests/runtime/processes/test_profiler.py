"""A run says that fewer, larger microbatches would be faster where it has measured so, and is not changed by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import jobs
from faults import hash_of, run, undisturbed
from unisono.runtime.processes import profiler
from unisono.runtime.processes.profiler import Profiler
from unisono.runtime.supervisor import event_loop

FIXED, EACH = (0.0086, 0.0086), (0.0086, 0.0172)
"""CPU seconds of a microbatch and of one of twice as many samples: where a microbatch costs, and where samples do."""


def advice(
    cut: tuple[int, int, int], measured: tuple[float, float], step: float = 0.1, compute: float = 0.09
) -> str | None:
    """What a run of a batch size, microbatches and workers says that took so long."""
    seen = Profiler(*cut)
    for _ in range(200):
        seen.record({"step_seconds": step, "compute_seconds": [0.5 * compute, compute]})
        seen.record({"step": 1, "evaluation/accuracy": 0.5})
    return seen.advice(*measured) if seen.is_due else None


@pytest.mark.parametrize(
    ("cut", "measured", "said"),
    [
        ((32, 8, 2), FIXED, "microbatches=2 would make a step about 3.1 × faster here; it is another result"),
        ((32, 8, 4), FIXED, "microbatches=4 would make a step about 1.8 × faster here"),
        ((32, 8, 1), FIXED, "microbatches=2 would make a step about 3.1 × faster here"),
        ((30, 7, 3), FIXED, "microbatches=3 would make a step about 2.5 × faster here"),
        ((32, 8, 2), EACH, None),
        ((32, 8, 2), (0.0086, 0.0160), None),
        ((32, 8, 2), (0.0086, 0.0190), None),
        ((32, 8, 2), (0.0, 0.0), None),
        ((32, 8, 8), FIXED, None),
        ((32, 2, 1), FIXED, None),
    ],
)
def test_it_says_so_where_it_is_so(cut: tuple[int, int, int], measured: tuple[float, float], said: str | None) -> None:
    found = advice(cut, measured)
    assert found is None if said is None else found is not None and found.startswith(said)


def test_what_is_not_computing_does_not_shrink() -> None:
    assert advice((32, 8, 2), FIXED, step=0.1, compute=0.02) is None


def test_a_short_run_is_not_looked_at() -> None:
    assert advice((32, 8, 2), FIXED, step=0.01, compute=0.009) is None


def test_a_run_that_is_looked_at_keeps_its_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spare process computes while the workers do, on a model whose forward pass changes buffers."""
    file, found = tmp_path / "steps", list[Any]()

    def advice(self: Profiler, *seconds: float) -> str:
        found.append(seconds)
        file.unlink()
        return "use fewer"

    monkeypatch.setattr(profiler, "BEGIN_SECONDS", 0.0)
    monkeypatch.setattr(event_loop, "CATCH_UP_SECONDS", 0.0)
    monkeypatch.setattr(Profiler, "advice", advice)
    file.write_text("30")
    data = jobs.Held(40, 32, str(file))
    job = jobs.make(jobs.Wild, optimizer=jobs.adamw, data=data, order="sequential", steps=40)
    outcome, _, messages = run(job, 2)
    assert outcome.failure is None, outcome.failure
    assert "use fewer" in messages
    assert len(found) == 1
    assert min(found[0]) > 0
    assert hash_of(outcome) == undisturbed(job)[0]
